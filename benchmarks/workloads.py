"""What is measured: cells of the matrix, each a series of phases on one folder of a system."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.measure import Work
from benchmarks.processes import Failed, run

MIB: Final = 1 << 20
SMALL_BYTES: Final = 4096
PARALLEL: Final = 4  # processes, where there are several
CACHES: Final = 2  # a system may keep data in the caches of its client and its server
LOAD_TIMEOUT_S: Final = 180.0
DIRECT: Final = "O_DIRECT"
XATTR_SHARE: Final = 5  # as many files, one such request
MILLION: Final = "million"
CROWD: Final = "small-16"  # more processes than cores: what merging is for
OPTIONAL: Final = (MILLION, CROWD)
SLOWEST_FILES_PER_S: Final = 300


class Scale(NamedTuple):
    """How much is done. *limit_ms*: a create or write phase ends then; later phases work on what it has made."""

    rounds: int
    files: int
    limit_ms: int
    fewer_files: int  # for rows that no target of the project is about
    fewer_limit_ms: int
    sequential_mib: int
    random_mib: int
    parallel_mib: int  # all processes together
    random_ms: int
    million: int  # files of the workload of that name
    drops_caches: bool  # of the kernel, before what is said to read from the disk
    pause_s: float  # between two phases on one system: longer than any kernel cache of the systems lasts


SCALES: Final = {
    "full": Scale(5, 10_000, 60_000, 10_000, 60_000, 1024, 256, 512, 5000, 1_000_000, True, 1.1),
    "default": Scale(5, 10_000, 2000, 2000, 300, 1024, 256, 64, 400, 1_000_000, True, 1.1),
    "quick": Scale(1, 2000, 500, 800, 250, 128, 64, 32, 250, 1_000_000, True, 1.1),
    "tiny": Scale(1, 40, 1000, 40, 1000, 4, 4, 4, 20, 100, False, 0.0),
}


class Phase(NamedTuple):
    """A step of a cell. *cold*: the kernel's caches are dropped before; *flushed*: the disk is idle before.

    *memory_bytes*: what it may need for the kernel's caches.
    *needs*: what a system must be able to do for it, see System.lacks.
    """

    key: str
    unit: str = ""
    cold: bool = False
    flushed: bool = False
    memory_bytes: int = 0
    measured: bool = True
    needs: str = ""


class Cell(ABC):
    """A series of phases; *state* is what one system's earlier phases of this round have left for later ones."""

    key: str
    group: str
    title: str
    phases: tuple[Phase, ...]

    @abstractmethod
    def run(self, phase: Phase, folder: Path, state: dict[str, Any]) -> Work:
        """Do one phase in *folder*. Raises Failed."""


class Files(Cell):
    """Many files, by load.c."""

    def __init__(
        self,
        key: str,
        group: str,
        title: str,
        load: Path,
        layout: str,
        processes: int,
        files: int,
        size: int,
        limit_ms: int,
    ) -> None:
        self.key, self.group, self.title = key, group, title
        self._load, self._layout, self._processes = load, layout, processes
        self._files, self._size, self._limit_ms = files, size, limit_ms
        self._timeout_s = LOAD_TIMEOUT_S + files / SLOWEST_FILES_PER_S
        names = ("write", "read", "stat", "remove") if size else ("create", "stat", "open", "list", "remove")
        if not size and processes > 1:
            names = ("create", "stat", "open", "remove")
        if key == "one-1":
            names = (*names[:-1], "xattr", "remove")
        units = {"list": "entries/s", "xattr": "requests/s"}
        self.phases = (
            Phase("prepare", measured=False, flushed=True),
            *(Phase(name, units.get(name, "files/s")) for name in names),
            Phase("clear", measured=False),
        )

    def run(self, phase: Phase, folder: Path, state: dict[str, Any]) -> Work:
        making = phase.key in ("create", "write")
        counts = state.setdefault("counts", [max(1, self._files // self._processes)] * self._processes)
        directories = phase.key in ("prepare", "clear")
        words = [max(1, self._files // self._processes)] * self._processes if directories else counts
        limit_ms = self._limit_ms if making else 0
        if phase.key == "xattr":
            words = [max(1, count // XATTR_SHARE) for count in counts]
        command = [self._load, phase.key, folder, self._layout, ",".join(map(str, words)), self._size, limit_ms]
        done = json.loads(run(command, self._timeout_s))
        if making:
            state["counts"] = done["counts"]
        if phase.key == "list" and self._layout == "one" and done["operations"] != sum(counts):
            raise Failed(f"{folder}: {done['operations']} entries are listed of {sum(counts)}")
        return Work(done["operations"], done["duration_ns"])


class Transfer(NamedTuple):
    """One fio job. *shared*: all processes work on parts of one file."""

    key: str
    pattern: str  # fio's rw
    block: int
    size_mib: int
    processes: int = 1
    shared: bool = False
    direct: bool = False
    time_ms: int = 0


class Data(Cell):
    """A series of fio jobs on files that the first of them writes."""

    def __init__(self, key: str, title: str, transfers: tuple[Transfer, ...]) -> None:
        self.key, self.group, self.title = key, "data", title
        self._transfers = {transfer.key: transfer for transfer in transfers}
        self.phases = (
            *((Phase("make", flushed=True, measured=False),) if "make" in self._transfers else ()),
            *(
                Phase(
                    transfer.key,
                    "MiB/s" if transfer.block == MIB else "operations/s",
                    cold="read" in transfer.pattern,
                    flushed=True,
                    memory_bytes=CACHES * transfer.size_mib * MIB,
                    needs=DIRECT if transfer.direct else "",
                )
                for transfer in transfers
                if transfer.key != "make"
            ),
            Phase("clear", measured=False),
        )

    def run(self, phase: Phase, folder: Path, state: dict[str, Any]) -> Work:
        del state
        if phase.key == "clear":
            for path in folder.iterdir():
                path.unlink()
            return Work(0, 0)
        transfer = self._transfers[phase.key]
        report = run(["fio", *fio_options(transfer, folder)], LOAD_TIMEOUT_S)
        try:
            (job,) = json.loads(report[report.index("{") :])["jobs"]
        except ValueError as error:
            raise Failed(f"fio: no report that can be read: {error}") from None
        side = job["read" if "read" in transfer.pattern else "write"]
        if job["error"] or not side["bw_bytes"]:
            raise Failed(f"fio {phase.key}: error {job['error']}, {side['io_bytes']} bytes")
        operations = side["io_bytes"] // transfer.block
        return Work(operations, round(side["io_bytes"] / side["bw_bytes"] * 1e9))


def fio_options(transfer: Transfer, folder: Path) -> Iterator[str]:
    """The command line of one job; writes that are not for a time include the fsync at their end."""
    each = transfer.size_mib * MIB // transfer.processes
    yield from ("--name=load", f"--rw={transfer.pattern}", f"--bs={transfer.block}", f"--size={each}")
    yield from ("--clocksource=clock_gettime", "--disk_util=0")  # nothing to calibrate, nothing to look up
    yield from ("--ioengine=psync", "--fallocate=none", "--group_reporting", "--output-format=json")
    yield from (
        f"--numjobs={transfer.processes}",
        f"--direct={int(transfer.direct)}",
        "--randseed=1",
        "--norandommap",
    )
    if transfer.shared:
        yield from (f"--filename={folder}/shared", f"--offset_increment={each}")
    else:
        yield from (f"--directory={folder}", "--filename_format=data.$jobnum")
    if transfer.time_ms:
        yield from ("--time_based", f"--runtime={transfer.time_ms}ms")
    elif "write" in transfer.pattern:
        yield "--end_fsync=1"


def _modes(scale: Scale) -> tuple[Transfer, ...]:
    size, time_ms = scale.random_mib, scale.random_ms
    return (
        Transfer("make", "write", MIB, size),
        Transfer("direct-write", "write", MIB, size, direct=True),
        Transfer("direct-read", "read", MIB, size, direct=True),
        Transfer("random-write", "randwrite", 4096, size, time_ms=time_ms),
        Transfer("random-read", "randread", 4096, size, time_ms=time_ms),
        Transfer("random-direct-write", "randwrite", 4096, size, direct=True, time_ms=time_ms),
        Transfer("random-direct-read", "randread", 4096, size, direct=True, time_ms=time_ms),
    )


def _parallel(scale: Scale, shared: bool) -> tuple[Transfer, ...]:
    size, time_ms, count = scale.parallel_mib, scale.random_ms, PARALLEL
    return (
        Transfer("write", "write", MIB, size, count, shared),
        Transfer("read", "read", MIB, size, count, shared),
        Transfer("direct-write", "write", MIB, size, count, shared, direct=True),
        Transfer("direct-read", "read", MIB, size, count, shared, direct=True),
        Transfer("random-write", "randwrite", 4096, size, count, shared, time_ms=time_ms),
        Transfer("random-read", "randread", 4096, size, count, shared, time_ms=time_ms),
    )


def cells(scale: Scale, load: Path) -> list[Cell]:
    """All of the matrix; *load* is the compiled load.c."""
    files, limit_ms = scale.files, scale.limit_ms
    fewer, fewer_limit_ms = scale.fewer_files, scale.fewer_limit_ms
    found: list[Cell] = []
    for layout, where in (("one", "one directory"), ("tree", "a tree")):
        for count in (1, 2, 4):
            title = f"empty files in {where}, {count} process{'es' if count > 1 else ''}"
            sized = (files, 0, limit_ms) if layout == "one" and count < 4 else (fewer, 0, fewer_limit_ms)
            found.append(Files(f"{layout}-{count}", "metadata", title, load, layout, count, *sized))
    found.append(
        Files("small-1", "small", "files of 4 KiB, 1 process", load, "one", 1, files, SMALL_BYTES, limit_ms)
    )
    for name, count in ("small-4", PARALLEL), (CROWD, 16):
        title = f"files of 4 KiB, {count} processes, a directory each"
        found.append(Files(name, "small", title, load, "own", count, fewer, SMALL_BYTES, fewer_limit_ms))
    sequential = (
        Transfer("write", "write", MIB, scale.sequential_mib),
        Transfer("read", "read", MIB, scale.sequential_mib),
    )
    found.append(Data("sequential", f"{scale.sequential_mib} MiB in 1 MiB operations, 1 process", sequential))
    found.append(Data("file", f"a file of {scale.random_mib} MiB, 1 process", _modes(scale)))
    size = scale.parallel_mib
    found.append(Data("own-4", f"{size} MiB, 4 processes, a file each", _parallel(scale, shared=False)))
    found.append(Data("shared-4", f"{size} MiB, 4 processes, one shared file", _parallel(scale, shared=True)))
    title = f"{scale.million:,} empty files in a tree, 2 processes"
    found.append(Files(MILLION, "memory", title, load, "tree", 2, scale.million, 0, 0))
    return found
