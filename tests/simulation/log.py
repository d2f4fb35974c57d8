"""What the product logs, as part of the trace of a run."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.simulation.process import PROCESS


@contextmanager
def logged(trace: Callable[[str], None], folder: Path) -> Iterator[None]:
    """Within the block the product's log goes to *trace*, without the name of *folder*, which no two runs have."""
    logger = logging.getLogger("gkfs")
    handler = _ToTrace(trace, str(folder))
    before = logger.level, logger.propagate, logger.handlers
    logger.setLevel(logging.INFO)
    logger.propagate, logger.handlers = False, [handler]
    try:
        yield
    finally:
        logger.level, logger.propagate, logger.handlers = before


class _ToTrace(logging.Handler):
    def __init__(self, trace: Callable[[str], None], folder: str) -> None:
        super().__init__()
        self._folder = folder
        self._trace = trace
        self._before: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        name, text = PROCESS.get().name, self.format(record).replace(self._folder, "")
        if self._before.get(name) != text:  # it says the same all the time while a daemon is away
            self._before[name] = text
            self._trace(f"{name} says: {text}")
