"""The daemons' stores: they end with their process, and no task may wait while something is uncommitted."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from gkfs.daemon.store import MetadataStore
from tests.simulation.process import PROCESS, Killed

OPEN_STORES: "dict[Store, None]" = {}


class NothingUncommitted(trio.abc.Instrument):
    """Tells *violation* when a task waits with uncommitted changes: another one could take them back."""

    def __init__(self, violation: Callable[[str], None]) -> None:
        self._violation = violation
        OPEN_STORES.clear()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Part of trio's `Instrument`."""
        for store in OPEN_STORES:
            if store.dirty:
                del OPEN_STORES[store]  # once
                self._violation(f"{task.name} waits with uncommitted changes of {store.owner}: {store.changed()}")
                return


class Store(MetadataStore):
    """The product's store, which ends with its process; what it had committed is kept as it was then."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._process = PROCESS.get()
        self._process.on_kill.append(self._killed)
        OPEN_STORES[self] = None

    @property
    def owner(self) -> str:
        """The process that has it."""
        return self._process.name

    def changed(self) -> list[bytes]:
        """The keys that `commit` would write."""
        return sorted(self._overlay)

    def _killed(self) -> None:
        # What RocksDB has handed to the system stays; what it does when it is closed has not happened.
        OPEN_STORES.pop(self, None)
        folder = Path(self._folder)
        image = _image(folder)
        self._db.close()
        self._db = _Ended(self._process.name)  # type: ignore[assignment]
        for path in folder.iterdir():
            path.unlink()
        for path, data in image:
            path.write_bytes(data)

    def _write(self, write: Callable[[], None]) -> None:
        last = self._process.before_step()
        super()._write(write)
        self._process.after_step(last)

    def close(self) -> bool:
        if isinstance(self._db, _Ended):
            return False
        self._process.on_kill.remove(self._killed)
        OPEN_STORES.pop(self, None)
        return super().close()


def _image(folder: Path) -> list[tuple[Path, bytes]]:
    """All files at one moment, while RocksDB's threads merge some and delete them."""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError):
            before = _sizes(folder)
            image = [(path, path.read_bytes()) for path in sorted(folder.iterdir()) if path.name != "LOCK"]
            if _sizes(folder) == before:
                return image
    raise RuntimeError(f"{folder} does not come to rest")


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


class _Ended:
    """Stands for the database of a process that has ended."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        raise Killed(self._name)
