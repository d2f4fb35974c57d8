"""Runs the matrix: all systems up at once, phase by phase over all of them, round by round; all down again."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from benchmarks import machine, packages, results
from benchmarks.measure import Meter, Sample, drop_caches, flush, provide_memory
from benchmarks.processes import Failed, run
from benchmarks.systems.base import System, Unavailable, spread
from benchmarks.systems.catalogue import CATALOGUE
from benchmarks.workloads import Cell, Phase, Scale, cells

TOOLS = ("fio", "gcc", "libc6-dev")
LOAD_SOURCE = Path(__file__).with_name("load.c")
Say = Callable[[str], None]


class Plan:
    """What is to be run where. *install*: Debian packages that are missing are installed."""

    def __init__(
        self, folder: Path, scale_name: str, scale: Scale, systems: list[str], workloads: list[str], install: bool
    ) -> None:
        self.folder, self.scale_name, self.scale = folder, scale_name, scale
        self.systems, self.workloads, self.install = systems, workloads, install


def run_plan(plan: Plan, say: Say) -> results.Document:
    """Run it all; the document. Raises Failed when there is no load to run, KeyboardInterrupt when told to end."""
    begun = datetime.now(UTC)
    begun_s = time.monotonic()
    with signals_interrupt(), equal_priority(), contextlib.ExitStack() as stack:
        need_tools(plan)
        facts = machine.facts(plan.folder)
        spread(plan.folder)
        load = plan.folder / "load"
        stack.callback(load.unlink, missing_ok=True)
        run(["gcc", "-O2", "-o", load, LOAD_SOURCE])
        chosen = [cell for cell in cells(plan.scale, load) if cell.key in plan.workloads]
        matrix = Matrix(plan, chosen, say)
        stack.callback(matrix.tear_down)
        matrix.set_up()
        for number in range(plan.scale.rounds):
            for cell in chosen:
                matrix.run_cell(cell, number)
    return {
        "format": results.FORMAT,
        "begun": begun.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - begun_s, 1),
        "machine": facts,
        "scale": {"name": plan.scale_name, **plan.scale._asdict()},
        "systems": matrix.systems,
        "rows": [
            {
                "key": row_key(cell, phase),
                "group": cell.group,
                "cell": cell.title,
                "phase": phase.key,
                "unit": phase.unit,
            }
            for cell in chosen
            for phase in cell.phases
            if phase.measured
        ],
        "samples": matrix.samples,
        "medians": results.medians(matrix.samples),
    }


def need_tools(plan: Plan) -> None:
    """The load's own programs are there. Raises Failed."""
    if missing := packages.missing(TOOLS):
        if not plan.install:
            raise Failed(f"Debian packages are missing: {' '.join(missing)}")
        packages.install(missing)


def row_key(cell: Cell, phase: Phase) -> str:
    """Names a row of the report."""
    return f"{cell.key}/{phase.key}"


class Matrix:
    """The systems that are up, and what was measured on them."""

    def __init__(self, plan: Plan, chosen: list[Cell], say: Say) -> None:
        self._plan, self._say = plan, say
        self._up: dict[str, System] = {}
        self._rested_s: dict[str, float] = {}  # when a system was used last, of time.monotonic()
        self.systems: dict[str, dict[str, Any]] = {}
        self.samples: dict[str, dict[str, list[Sample]]] = {
            row_key(cell, phase): {} for cell in chosen for phase in cell.phases if phase.measured
        }

    def set_up(self) -> None:
        """Bring up what can be had; the others are noted with the reason."""
        for name in self._plan.systems:
            system = CATALOGUE[name](name, self._plan.folder / name)
            entry: dict[str, Any] = {"title": system.title, "version": None, "available": False, "reason": None}
            self.systems[name] = entry | {"lacks": dict(system.lacks)}
            entry = self.systems[name]
            self._up[name] = system  # from now on there may be something to remove
            try:
                self._provide(system)
                system.set_up()
                entry |= {"version": system.version(), "available": True}
            except (Unavailable, Failed) as error:
                entry["reason"] = str(error)
                self._say(f"{name}: not available: {error}")
                self._remove(name)
            else:
                self._say(f"{name}: {entry['version']}")

    def _provide(self, system: System) -> None:
        missing = packages.missing(system.packages)
        if missing and self._plan.install:
            self._say(f"{system.name}: installing {' '.join(missing)}")
            packages.install(missing)
        elif missing:
            raise Unavailable(f"Debian packages are missing: {' '.join(missing)}")

    def run_cell(self, cell: Cell, number: int) -> None:
        """All phases of *cell*, each on one system after another; another one begins in each round."""
        begun_s = time.monotonic()
        states: dict[str, dict[str, Any]] = {}
        for phase in cell.phases:
            if (
                phase.cold and self._plan.scale.drops_caches
            ):  # for all at once: what one system reads is no other's
                drop_caches(self._plan.folder)
            names = list(self._up)
            for name in names[number % max(1, len(names)) :] + names[: number % max(1, len(names))]:
                if phase.needs in self._up[name].lacks:
                    continue
                try:
                    self._run_phase(cell, phase, number, name, states.setdefault(name, {}))
                except (Failed, OSError) as error:
                    reason = f"failed in round {number + 1}, {row_key(cell, phase)}: {error}"
                    self.systems[name] |= {"available": False, "reason": reason}
                    self._say(f"{name}: {reason}")
                    self._remove(name)
        self._say(
            f"round {number + 1} of {self._plan.scale.rounds}: {cell.key}, {time.monotonic() - begun_s:.1f} s"
        )

    def _run_phase(self, cell: Cell, phase: Phase, number: int, name: str, state: dict[str, Any]) -> None:
        system = self._up[name]
        folder = system.mountpoint / f"{cell.key}-{number}"
        if not state:
            folder.mkdir()
            state["folder"] = folder
        if phase.flushed:
            flush(self._plan.folder)
        if phase.memory_bytes:
            provide_memory(phase.memory_bytes)
        if phase.measured and not phase.flushed:
            # What the kernel caches for a time only is no longer there, however many systems are in the run.
            time.sleep(max(0.0, self._rested_s.get(name, 0.0) + self._plan.scale.pause_s - time.monotonic()))
        if phase.measured:
            meter = Meter(system)
            sample = meter.sample(cell.run(phase, folder, state))
            self.samples[row_key(cell, phase)].setdefault(name, []).append(sample)
        else:
            cell.run(phase, folder, state)
        if phase is cell.phases[-1]:
            folder.rmdir()
        self._rested_s[name] = time.monotonic()

    def _remove(self, name: str) -> None:
        system = self._up.pop(name)
        try:
            system.tear_down()
        except (Failed, OSError) as error:
            self._say(f"{name}: could not be removed: {error}")
            self.systems[name]["reason"] = f"{self.systems[name]['reason'] or ''}; left behind: {error}".lstrip(
                "; "
            )

    def tear_down(self) -> None:
        """Remove all that are up; signals wait until it is done."""
        with signals_ignored():
            for name in list(self._up):
                self._remove(name)


PRIORITY = -19  # what MooseFS gives itself when root starts it


@contextlib.contextmanager
def equal_priority() -> Iterator[None]:
    """Within it all that is started has the highest priority that any of the systems takes, if this is root."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """Within it the signals that end a program raise KeyboardInterrupt, so that everything is removed."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, interrupt) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_ignored() -> Iterator[None]:
    """Within it they do nothing: a second Ctrl-C must not leave a mount behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
