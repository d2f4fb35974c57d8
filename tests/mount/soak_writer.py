"""A program that works on a mount and remembers what it was told: the load of `soak`.

It does one call after the other in a folder of its own, and appends lines to a file that all writers share. Every
call has to succeed. What a call has returned for is in its model, to be compared with what is there.
"""

import os
import random
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, NamedTuple

from tests.mount.calls import MIB, noise

SHARED: Final = "lines"
_FILES_MAX: Final = 24
_SIZES: Final = (0, 1, 500, 8192, 8193, 60_000, 300_000, MIB + 5)
_FOLDERS: Final = ("one", "two", "three")


class Told(NamedTuple):
    """What a writer knows at a pause. *files*: contents by path below its folder; *lines*: its shared ones."""

    files: dict[str, bytes]
    folders: set[str]
    lines: list[bytes]
    calls: int
    longest_s: float
    longest_call: str
    failure: str


class _Writer:
    def __init__(self, mountdir: Path, number: int, seed: int) -> None:
        self._folder = mountdir / f"writer-{number}"
        self._shared = mountdir / SHARED
        self._number = number
        self._dice = random.Random(seed)
        self._step = 0
        self._files: dict[str, bytes] = {}
        self._folders: set[str] = set()
        self._lines: list[bytes] = []
        self._calls = 0
        self._longest = (0.0, "")

    def told(self, failure: str = "") -> Told:
        return Told(self._files, self._folders, self._lines, self._calls, *self._longest, failure)

    def begin(self) -> None:
        self._folder.mkdir()
        for name in _FOLDERS:
            self._timed("mkdir", (self._folder / name).mkdir)
            self._folders.add(name)

    def step(self) -> None:
        """One thing more."""
        self._step += 1
        does = [
            self._create,
            self._append,
            self._line,
            self._rename,
            self._overwrite,
            self._read,
            self._folder_moves,
        ]
        does += [self._unlink, self._replace] if len(self._files) > _FILES_MAX // 2 else [self._create]
        does += [self._unlink] * 4 if len(self._files) > _FILES_MAX else []
        self._dice.choice(does if self._files else [self._create])()

    def _timed(self, what: str, call: Callable[[], object]) -> object:
        begun_s = time.monotonic()
        try:
            return call()
        except OSError as error:
            raise OSError(error.errno, f"step {self._step}, {what}: {error.strerror}") from error
        finally:
            self._calls += 1
            self._longest = max(self._longest, (time.monotonic() - begun_s, what))

    def _any(self) -> str:
        return self._dice.choice(sorted(self._files))

    def _new_name(self) -> str:
        return f"{self._dice.choice(sorted(self._folders))}/{self._step}"

    def _data(self) -> bytes:
        return noise(self._dice.choice(_SIZES), self._step)

    def _create(self) -> None:
        name, data = self._new_name(), self._data()
        fd = self._open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self._files[name] = b""
        self._write(fd, data)
        self._files[name] = data
        self._close(fd)

    def _append(self) -> None:
        name, data = self._any(), noise(self._dice.choice((1, 700, 20_000)), self._step)
        if len(self._files[name]) > 2 * MIB:
            return
        fd = self._open(name, os.O_WRONLY | os.O_APPEND)
        self._write(fd, data)
        self._files[name] += data
        self._close(fd)

    def _overwrite(self) -> None:
        """Write into the middle, and sync."""
        name, data = self._any(), noise(self._dice.choice((1, 700, 200_000)), self._step)
        before = self._files[name]
        offset = self._dice.randrange(len(before) + 1)
        fd = self._open(name, os.O_RDWR)
        view = memoryview(data)
        while view:
            written = self._timed("pwrite", lambda: os.pwrite(fd, view, offset + len(data) - len(view)))  # noqa: B023
            assert isinstance(written, int)
            view = view[written:]
        self._timed("fsync", lambda: os.fsync(fd))
        self._files[name] = before[:offset] + data + before[offset + len(data) :]
        self._close(fd)

    def _line(self) -> None:
        """Append to what all append to: once, and after what was appended before."""
        line = b"%d %d\n" % (self._number, self._step)
        fd = self._timed("open", lambda: os.open(self._shared, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
        assert isinstance(fd, int)
        self._write(fd, line)
        self._lines.append(line)
        self._close(fd)

    def _rename(self) -> None:
        source, target = self._any(), self._new_name()
        self._timed("rename", lambda: os.rename(self._folder / source, self._folder / target))
        self._files[target] = self._files.pop(source)

    def _replace(self) -> None:
        source, target = self._any(), self._any()
        self._timed("rename over", lambda: os.rename(self._folder / source, self._folder / target))
        self._files[target] = self._files.pop(source)

    def _unlink(self) -> None:
        name = self._any()
        self._timed("unlink", lambda: os.unlink(self._folder / name))
        del self._files[name]

    def _folder_moves(self) -> None:
        """A directory gets another name, with everything in it."""
        source, target = self._dice.choice(sorted(self._folders)), f"folder-{self._step}"
        self._timed("rename of a directory", lambda: os.rename(self._folder / source, self._folder / target))
        self._folders = self._folders - {source} | {target}
        for name in [name for name in self._files if name.startswith(f"{source}/")]:
            self._files[f"{target}/{name.partition('/')[2]}"] = self._files.pop(name)

    def _read(self) -> None:
        name = self._any()
        found = self._timed("read", (self._folder / name).read_bytes)
        assert found == self._files[name], f"step {self._step}: {name} has not what was written"

    def _open(self, name: str, flags: int) -> int:
        fd = self._timed("open", lambda: os.open(self._folder / name, flags))
        assert isinstance(fd, int)
        return fd

    def _write(self, fd: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = self._timed("write", lambda: os.write(fd, view))  # noqa: B023
            assert isinstance(written, int)
            view = view[written:]

    def _close(self, fd: int) -> None:
        self._timed("close", lambda: os.close(fd))


def work(mountdir: Path, number: int, seed: int, pipe: Connection) -> None:
    """Work until something is received, answer with what is known, wait for the next, and so on; None ends."""
    writer = _Writer(mountdir, number, seed)
    failure = ""
    try:
        writer.begin()
    except Exception as error:
        failure = repr(error)
    while True:
        while not failure and not pipe.poll():
            try:
                writer.step()
            except Exception as error:
                failure = repr(error)
        if pipe.recv() is None:  # at the begin of a pause, and at its end
            return
        pipe.send(writer.told(failure))
        if pipe.recv() is None:
            return
