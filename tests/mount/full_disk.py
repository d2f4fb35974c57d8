"""Small disks for daemons, and processes that write until there is no room."""

import contextlib
import errno
import multiprocessing
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tests.mount.calls import MIB, noise
from tests.mount.file_system import FileSystem

NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
_JOIN_S: Final = 100
_FILES_MAX: Final = 20_000
_SIZES: Final = (0, 700, 4096, 8192, 30_000, 300_000, MIB, 3 * MIB + 17)


class Report(NamedTuple):
    """What one writer was told: files that are whole by its calls, and how calls failed."""

    acknowledged: dict[str, tuple[int, int]]  # name: size and seed
    errors: dict[int, int]  # errno: how often
    at_close: int  # of them by fsync or close


@contextlib.contextmanager
def disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """An empty disk of that size, in memory, mounted on *folder*, which is made."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


class OnDisk(FileSystem):
    """Its daemons share one disk."""

    def __init__(self, folder: Path, daemons: int, disk_folder: Path) -> None:
        super().__init__(folder, daemons)
        self.rootdir.rmdir()
        self.rootdir = disk_folder / "root"
        self.rootdir.mkdir()


class WithDiskOfOne(FileSystem):
    """Daemon *victim* has a disk of its own."""

    def __init__(self, folder: Path, daemons: int, victim: int, disk_folder: Path) -> None:
        super().__init__(folder, daemons)
        own = disk_folder / "own"
        own.mkdir()
        (self.rootdir / f"daemon-{victim}").symlink_to(own)


def write_until_full(
    mounts: list[Path], writers: int, refusals: int, sizes: tuple[int, ...] = _SIZES
) -> list[Report]:
    """Have *writers* processes write files until each was refused *refusals* times; what each was told."""
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe() for _ in range(writers)]
    processes = [
        spawn.Process(
            target=_write, args=(mounts[number % len(mounts)], number, refusals, sizes, pipes[number][1])
        )
        for number in range(writers)
    ]
    for process in processes:
        process.start()
    reports = []
    for (mine, _), process in zip(pipes, processes, strict=True):
        assert mine.poll(_JOIN_S), f"a writer says nothing for {_JOIN_S} s"
        reports.append(mine.recv())
        process.join(_JOIN_S)
    return reports


def _write(
    mountdir: Path,
    number: int,
    refusals: int,
    sizes: tuple[int, ...],
    pipe: "multiprocessing.connection.Connection",
) -> None:
    folder = mountdir / f"writer-{number}"
    dice = random.Random(number)
    report = Report({}, {}, 0)
    step = 0
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    while sum(report.errors.values()) < refusals and step < _FILES_MAX:
        step += 1
        name, size = f"{os.getpid()}-{step}", dice.choice(sizes)
        late: list[bool] = []
        try:
            _write_one(folder / name, noise(size, step), dice.random() < 0.3, late)
        except OSError as error:
            number_ = error.errno or 0
            report.errors[number_] = report.errors.get(number_, 0) + 1
            report = report._replace(at_close=report.at_close + bool(late))
            with contextlib.suppress(OSError):
                os.unlink(folder / name)
        else:
            report.acknowledged[f"{folder.name}/{name}"] = (size, step)
    pipe.send(report)


def _write_one(path: Path, data: bytes, synced: bool, late: list[bool]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        for start in range(0, len(data), 200_000):
            view = memoryview(data)[start : start + 200_000]
            while view:
                view = view[os.write(fd, view) :]
        late.append(True)
        if synced:
            os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise
    os.close(fd)


def assert_all_there(mountdir: Path, reports: list[Report], keep: Callable[[str], bool] = lambda _: True) -> int:
    """Whether all that was acknowledged can be read, as it was written; how many bytes."""
    total = 0
    for report in reports:
        for name, (size, seed) in report.acknowledged.items():
            if keep(name):
                assert (mountdir / name).read_bytes() == noise(size, seed), name
                total += size
    return total
