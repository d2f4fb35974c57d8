"""How far a long work is: a bar on a terminal, else a line from time to time; both on stderr."""

import sys
import time
from typing import TYPE_CHECKING, Final, Self

import click

from gkfs.commands.staging import Result
from gkfs.commands.terminal import bytes_text, duration_text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINE_EVERY_S: Final = 10.0
_FILE_COSTS_BYTES: Final = 64 << 10  # a file takes as long as so many bytes of a large one
_RATE_OVER_S: Final = 5.0


class Meter:
    """Shows a `Result` while it grows."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._begun_s = self._said_s = time.monotonic()
        self._samples: list[tuple[float, int, int]] = []  # time, bytes, work
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console  # lazily: a tenth of a second
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (TextColumn(self._what), BarColumn(bar_width=None), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True, expand=True)
            self._task = self._bar.add_task("", total=None)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, result: Result) -> None:
        """Call it as often as you like."""
        now_s = time.monotonic()
        counts = result.counts
        done = counts["bytes"] + _FILE_COSTS_BYTES * (counts["files"] + counts["skipped"])
        found = counts["found_bytes"] + _FILE_COSTS_BYTES * counts["found_files"]
        self._samples.append((now_s, counts["bytes"], done))
        while len(self._samples) > 2 and self._samples[0][0] < now_s - _RATE_OVER_S:
            del self._samples[0]
        if self._bar is None and now_s < self._said_s + _LINE_EVERY_S:
            return
        text = self._text(result, done, found)
        if self._bar is not None and self._task is not None:
            total = found if result.all_found and found else None
            self._bar.update(self._task, completed=min(done, found), total=total, description=text)
            return
        self._said_s = now_s
        click.echo(f"{self._what}: {text}", err=True)

    def _text(self, result: Result, done: int, found: int) -> str:
        counts = result.counts
        (first_s, first_bytes, first_done), (last_s, last_bytes, last_done) = self._samples[0], self._samples[-1]
        elapsed_s = max(last_s - first_s, 1e-3)
        files = counts["files"] + counts["skipped"]
        of = f" of {counts['found_files']}" if result.all_found else ""
        text = f"{files}{of} files, {bytes_text(counts['bytes'])}"
        text += f", {bytes_text(int((last_bytes - first_bytes) / elapsed_s))}/s"
        rate = (last_done - first_done) / elapsed_s
        if result.all_found and rate > 0:
            text += f", {duration_text(max(0, found - done) / rate)} left"
        return text
