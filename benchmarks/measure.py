"""One measurement: what a load did on a system, and what the system's processes spent on it."""

import contextlib
import mmap
import os
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.processes import cpu_ns, resident_bytes, run
from benchmarks.systems.base import System

QUIET_NS: Final = 1_000_000  # a system that spends less in one look at it has finished
LOOK_S: Final = 0.02
QUIET_WAIT_S: Final = 0.5  # for what a system still does when the load has ended
DROP_CACHES: Final = Path("/proc/sys/vm/drop_caches")


class Work(NamedTuple):
    """What a load says it did."""

    operations: int
    duration_ns: int


Sample = dict[str, Any]  # as it is in the JSON: see sample()


class Meter:
    """Reads a system before a load, and again after it."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._processes = system.processes()
        self._counters = system.counters()
        self._before = self._cpu()

    def _cpu(self) -> dict[str, int]:
        return {role: cpu_ns(pids) for role, pids in self._processes.items()}

    def sample(self, work: Work) -> Sample:
        """Operations, duration_ns, cpu_ns and resident_bytes by role, counters as the difference.

        What the system does after the load has ended, such as the kernel's asynchronous releases, is its cost,
        too: the processors' time is taken when it has come to rest.
        """
        after = self._cpu()
        deadline_s = time.monotonic() + QUIET_WAIT_S
        while self._processes and time.monotonic() < deadline_s:
            time.sleep(LOOK_S)
            earlier, after = after, self._cpu()
            if sum(after.values()) - sum(earlier.values()) < QUIET_NS:
                break
        counters = self._system.counters()
        return {
            "operations": work.operations,
            "duration_ns": work.duration_ns,
            "cpu_ns": {role: after[role] - self._before[role] for role in after},
            "resident_bytes": {role: resident_bytes(pids) for role, pids in self._processes.items()},
            "counters": {name: counters[name] - self._counters[name] for name in counters},
        }


def flush(folder: Path) -> None:
    """What was written to the file systems of *folder* so far is on the disk, so that nobody else pays for it."""
    run(["sync", "-f", folder])


def provide_memory(size_bytes: int) -> None:
    """Have so much free memory at hand, if there is, that the kernel can give to what is read and written.

    A virtual machine may have handed what is free back to its host, and waits when it is used again: up to 2.4 ms
    for a MiB, more than any system here needs to move one, and whoever comes first pays.
    """
    with contextlib.suppress(OSError):
        size_bytes = min(size_bytes, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
        mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


def can_drop_caches() -> bool:
    """Whether reads can be measured that come from the disk."""
    return os.access(DROP_CACHES, os.W_OK)


def drop_caches(folder: Path) -> None:
    """Flush, then forget all that the kernel has cached: data, names, attributes."""
    flush(folder)
    with contextlib.suppress(PermissionError):  # the report says so: can_drop_caches
        DROP_CACHES.write_text("3")
