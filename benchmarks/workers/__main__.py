"""One mount with 1, 2 and 4 client processes against `gkfs mount`: empty files, rates and processors' time.

    python -m benchmarks.workers FOLDER [--workers 1,2,4] [--processes 1,2,4] [--daemons 1]
                                        [--rounds 3] [--files 4000] [--layout own|one]

FOLDER is an empty place on a local disk. Each variant has a file system of its own; all are up at once, and each
phase is done on one after another, so that what disturbs the machine disturbs all. With the layout `own` each
process has a directory, with `one` they share it, and then the kernel serialises their lookups. The tables show
medians: files/s, and microseconds of all client processes + all daemons per file.
"""

import argparse
import contextlib
import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Meter, Sample
from benchmarks.processes import end, run, start, unmount, wait_until
from benchmarks.runner import LOAD_SOURCE, equal_priority, signals_interrupt
from benchmarks.systems.base import CLIENT, DAEMON, System, spread
from benchmarks.systems.ours import VARIANTS, Ours, Variant
from benchmarks.workloads import Files

Samples = dict[str, dict[str, list[Sample]]]


class Workers(Ours):
    """gkfs with several client processes for its mount; 0: the product's own client."""

    def __init__(self, folder: Path, workers: int, daemons: int) -> None:
        name = f"{workers} workers" if workers else "gkfs mount"
        place = folder / f"workers-{workers}"
        how = ("start", "--rootdir", "{root}", "--hostfile", "{hosts}", "--daemons", str(daemons))
        mount = ("mount", "--hostfile", "{hosts}", "{mnt}")
        VARIANTS[name] = Variant(name, (how,) if workers else (how, mount))
        super().__init__(name, place)
        self._workers = workers

    def bring_up(self) -> None:
        if not self._workers:
            super().bring_up()
            return
        self.backing("root")
        (self.folder / "run").mkdir(mode=0o700)
        self._gkfs("start", "--rootdir", self._root, "--hostfile", self._hosts, *self._variant.commands[0][-2:])
        module = (sys.executable, "-m", "benchmarks.workers.serve")
        client = start([*module, self._hosts, self.mountpoint, self._workers], self.folder / "client.log")
        try:
            wait_until(lambda: os.path.ismount(self.mountpoint), f"a mount, see {self.folder}/client.log")
            os.stat(self.mountpoint)
        except BaseException:
            end(client)
            raise
        children = Path(f"/proc/{client.pid}/task/{client.pid}/children").read_text().split()
        daemons = [status.pid for status in self._statuses()]
        self._processes = {CLIENT: [client.pid, *map(int, children)], DAEMON: daemons}
        self._calibrate()

    def bring_down(self) -> None:
        if self._workers:
            unmount(self.mountpoint)
        super().bring_down()


def measure(systems: list[System], cells: list[Files], rounds: int) -> Samples:
    """What each phase took on each system, by row and system."""
    samples: Samples = {}
    for number in range(rounds):
        for cell in cells:
            states: dict[str, dict[str, Any]] = {}
            shift = number % len(systems)
            for phase in cell.phases:
                for system in [*systems[shift:], *systems[:shift]]:
                    place = system.mountpoint / f"{cell.key}-{number}"
                    place.mkdir(exist_ok=True)
                    meter = Meter(system)
                    sample = meter.sample(cell.run(phase, place, states.setdefault(system.name, {})))
                    if phase.measured:
                        row = samples.setdefault(f"{cell.key}/{phase.key}", {})
                        row.setdefault(system.name, []).append(sample)
            print(f"round {number + 1} of {rounds}: {cell.key}", file=sys.stderr)
    return samples


def tables(samples: Samples, names: list[str]) -> Iterator[str]:
    """Rates, and processors' time."""
    for title in ("files/s", "us of client + daemons per file", "requests per file"):
        yield f"\n| {title} | {' | '.join(names)} |\n|---|{'---:|' * len(names)}"
        for key, row in samples.items():
            cells = [_cell(title, row[name]) for name in names]
            yield f"| {key} | {' | '.join(cells)} |"


def _cell(title: str, samples: list[Sample]) -> str:
    if title == "files/s":
        return f"{statistics.median(one['operations'] / one['duration_ns'] * 1e9 for one in samples):,.0f}"
    if title.startswith("requests"):
        return f"{statistics.median(one['counters']['requests'] / one['operations'] for one in samples):.2f}"
    return " + ".join(
        f"{statistics.median(one['cpu_ns'][role] / one['operations'] / 1e3 for one in samples):.0f}"
        for role in (CLIENT, DAEMON)
    )


def numbers(text: str) -> list[int]:
    """*text* as numbers."""
    return [int(word) for word in text.split(",")]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=numbers, default=[1, 2, 4])
    parser.add_argument("--processes", type=numbers, default=[1, 2, 4])
    parser.add_argument("--daemons", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--layout", choices=("own", "one"), default="own")
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    spread(folder)
    load = folder / "load"
    with signals_interrupt(), equal_priority(), contextlib.ExitStack() as stack:
        stack.callback(load.unlink, missing_ok=True)
        run(["gcc", "-O2", "-o", load, LOAD_SOURCE])
        systems: list[System] = []
        for workers in [0, *asked.workers]:
            system = Workers(folder, workers, asked.daemons)
            stack.callback(system.tear_down)
            system.set_up()
            systems.append(system)
        cells = [
            Files(f"{asked.layout}-{count}", "", "", load, asked.layout, count, asked.files, 0, 0)
            for count in asked.processes
        ]
        samples = measure(systems, cells, asked.rounds)
        print(*tables(samples, [system.name for system in systems]), sep="\n")


if __name__ == "__main__":
    main()
