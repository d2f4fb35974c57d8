"""The coordinator of `gkfs stage-in` and `gkfs stage-out`: starts movers on all nodes and hands out work.

It knows units of work and in what order they may be done, not what they mean: movers find more of them while they
do some (`gkfs.client.stage`). A unit that a node should do is done by another when that has nothing else to do.
What a mover was at when it died is done again by others: a unit can be repeated.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from gkfs.commands.launchers import Places
from gkfs.commands.members import Members
from gkfs.commands.signals import ENDING, Signals
from gkfs.errors import ExitStatus, GkfsError
from gkfs.gang import Event
from gkfs.gang_wire import Message
from gkfs.limits import END_GRACE_S, GANG_MEMBERS_MAX, JOB_START_TIMEOUT_S

Unit = dict[str, Any]

_UNITS_AT_ONCE: Final = 3  # of one mover: it reads the next while the last is being written
_TURN_S: Final = 0.2
_TELL_EVERY_S: Final = 0.1  # a mover says how far it is
_TOLD_EACH_S: Final = 1000  # messages that the coordinator has time for, whatever number of movers there is
_FINDING: Final = ("prepare", "list", "scan")  # units by which files are found
_MOVERS_MAX: Final = 4
_TRIES: Final = 3  # of a unit whose mover dies
_ITEMS_TOGETHER: Final = 250  # as one unit, whatever length paths have: GANG_MESSAGE_MAX_BYTES
_PHASES: Final = ("links", "directories")  # after everything else, in this order


class Errand(NamedTuple):
    """What is to be moved; *unit* is the first one."""

    direction: str  # "in" or "out"
    unit: Unit
    plan: dict[str, bool]
    hostfile: Path
    timeout_s: float
    look_at: list[tuple[bytes, list[int]]]  # what every mover must see
    tls: bool = False


class Result:
    """How far it is; all numbers are of entries or bytes."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(("files", "bytes", "skipped", "found_files", "found_bytes", "directories"), 0)
        self.errors: list[tuple[bytes, str]] = []
        self.differences: list[tuple[bytes, str]] = []
        self.all_found = False
        self.signal = 0  # that ended it before its time
        self.warnings: list[str] = []


class _Join:
    """Ranges of one file: *then* comes after the last of them."""

    def __init__(self, count: int, then: Unit) -> None:
        self.count = count
        self.then = then


class _Mover:
    """One process; *busy*: what it was given and has not done, by id."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.ready = False
        self.busy: dict[int, Unit] = {}


class Coordinator:
    """Does one errand with *per_host* movers on each of *places*."""

    def __init__(self, errand: Errand, places: Places, per_host: int, log: Path | None, signals: Signals) -> None:
        self.result = Result()
        self._errand = errand
        self._signals = signals
        self._places = places
        per_host = max(1, min(per_host, GANG_MEMBERS_MAX // len(places.hosts)))
        self._members = Members(places, per_host, log, tls=errand.tls)
        self._size = self._members.size
        self._gang = self._members.gang
        self._movers: dict[int, _Mover] = {}
        self._left_out: list[str] = []  # nodes that do not see the same files
        self._any: deque[Unit] = deque()
        self._of_node: dict[str, deque[Unit]] = {}
        self._joins: dict[int, _Join] = {}
        self._items: dict[str, dict[Any, list[Any]]] = {}
        self._number = 0
        self._finding = 0  # units that find files, waiting or being done
        self._failure: GkfsError | None = None
        self._has_lost = False  # a mover, in the middle of its work

    def run(self, on_turn: Callable[[Result], None]) -> Result:
        """Do it; *on_turn* is called every moment with what is known. Raises GkfsError when it cannot go on."""
        try:
            self._members.launch(["mover"])
            self._gather()
            self._queue(self._errand.unit)
            while not self.result.signal and self._hand_out():
                self._turn()
                if self._failure is not None:
                    raise self._failure
                on_turn(self.result)
            return self.result
        finally:
            self._end()

    # --- movers

    def _gather(self) -> None:
        """Wait until all movers are ready, or have said why not. Raises GkfsError."""
        deadline_s = time.monotonic() + JOB_START_TIMEOUT_S
        while sum(mover.ready for mover in self._movers.values()) + len(self._left_out) < self._size:
            self._turn()
            if self.result.signal:
                return
            if self._failure is not None:
                raise self._failure
            for child in self._members.started:
                if child.ended and child.process.returncode:
                    raise child.failure()
            if time.monotonic() > deadline_s:
                there = f"{len(self._movers)} of {self._size} movers are there"
                raise GkfsError(f"{there} after {JOB_START_TIMEOUT_S:.0f} s", ExitStatus.UNREACHABLE)
        if not self._movers:
            raise GkfsError(f"no node sees {self._errand.look_at[0][0].decode(errors='replace')}")
        if self._left_out and self._movers:
            nodes = sorted(set(self._left_out))
            self.result.warnings.append(f"not by {', '.join(nodes[:5])}: the same files are not seen there")

    def _turn(self) -> None:
        """Wait for a message, a signal, or a moment, and take what came."""
        for number in self._signals.wait(_TURN_S, self._gang.fileno()):
            if number in ENDING and not self.result.signal:
                self.result.signal = number
                self._any.clear()
                self._of_node.clear()
                self._gang.broadcast({"do": "stop"})
        for event in self._gang.poll(0):
            self._take(event)

    def _take(self, event: Event) -> None:
        rank, message = event
        if message is None:
            self._lost(rank)
            return
        handler = self._HANDLERS.get(str(message.get("is")))
        if handler is not None:
            handler(self, rank, message)

    def _joined(self, rank: int, message: Message) -> None:
        self._movers[rank] = _Mover(str(message["host"]))
        errand = self._errand
        self._gang.send(
            rank,
            {
                "do": "begin",
                "direction": errand.direction,
                "plan": errand.plan,
                "hostfile": str(errand.hostfile),
                "timeout_s": errand.timeout_s,
                "tell_every_s": max(_TELL_EVERY_S, self._size / _TOLD_EACH_S),
                "look_at": errand.look_at,
            },
        )

    def _ready(self, rank: int, message: Message) -> None:
        if message["sees"]:
            self._movers[rank].ready = True
            return
        self._left_out.append(self._movers.pop(rank).node)
        self._gang.send(rank, {"do": "end"})

    def _failed(self, rank: int, message: Message) -> None:
        where = "" if len(self._places.hosts) == 1 else f"{self._movers[rank].node}: "
        self._failure = self._failure or GkfsError(where + message["message"], ExitStatus(message["status"]))

    def _lost(self, rank: int) -> None:
        mover = self._movers.pop(rank, None)
        if mover is None:
            return
        if not mover.ready:
            self._failure = self._failure or GkfsError(f"a mover on {mover.node} ended before it had begun")
            return
        self._has_lost = True
        self.result.warnings.append(f"a mover on {mover.node} has ended; others do what it was at")
        for unit in mover.busy.values():
            unit["tries"] = unit.get("tries", 1) + 1
            if unit["tries"] > _TRIES:
                self.result.errors.append((unit.get("path", b""), "the movers that were at it have died"))
                self._done_with(unit, failed=True)
            elif not self.result.signal:
                self._finding -= unit["do"] in _FINDING
                self._queue(unit)
        if not any(mover.ready for mover in self._movers.values()):
            raise GkfsError("all movers have ended; what is missing is done by another call")

    # --- work

    def _queue(self, unit: Unit) -> None:
        self._number += 1
        unit["id"] = self._number
        self._finding += unit["do"] in _FINDING
        node = unit.get("node")
        if node is not None and any(mover.node == node for mover in self._movers.values()):
            self._of_node.setdefault(node, deque()).append(unit)
        elif unit["do"] == "list":
            self._any.append(unit)
        else:
            self._any.appendleft(unit)  # so that there is never much more known than is being moved

    def _hand_out(self) -> bool:
        """Give movers what they can take; False when there is nothing left to do."""
        while True:
            for units_each in range(1, _UNITS_AT_ONCE + 1):  # evenly: nobody gets two while others have none
                for rank, mover in self._movers.items():
                    if mover.ready and len(mover.busy) < units_each and (unit := self._next(mover.node)):
                        mover.busy[unit["id"]] = unit
                        self._gang.send(rank, unit)
            if any(mover.busy for mover in self._movers.values()):
                self.result.all_found = not self._finding
                return True
            if self.result.signal or not self._next_phase():
                return False

    def _next(self, node: str) -> Unit | None:
        own = self._of_node.get(node)
        if own:
            return own.popleft()
        if self._any:
            return self._any.popleft()
        others = max(self._of_node.values(), key=len, default=None)
        return others.popleft() if others else None

    def _next_phase(self) -> bool:
        """Queue what had to wait for everything else; False if there is none."""
        for kind in _PHASES:
            found = self._items.pop(kind, None)
            if not found:
                continue
            for groups in self._portions(kind, found):
                self._queue({"do": kind, "groups": groups, "again": self._has_lost})
            return True
        return False

    def _portions(self, kind: str, found: dict[Any, list[Any]]) -> Iterator[list[tuple[Any, list[Any]]]]:
        """Groups of items, in portions that fit a message; what does not fit of one comes in the next phase."""
        portion: list[tuple[Any, list[Any]]] = []
        room = _ITEMS_TOGETHER
        for key, items in found.items():
            if len(items) > _ITEMS_TOGETHER:
                rest = items[_ITEMS_TOGETHER:]
                self._items.setdefault(kind, {})[key] = [items[0], *rest]  # which all others have to do with
                items = items[:_ITEMS_TOGETHER]
            if len(items) > room:
                yield portion
                portion, room = [], _ITEMS_TOGETHER
            portion.append((key, items))
            room -= len(items)
        if portion:
            yield portion

    def _more(self, _: int, message: Message) -> None:
        if not self.result.signal:
            for unit in message["units"]:
                self._queue(unit)

    def _join(self, _: int, message: Message) -> None:
        if self.result.signal:
            return
        self._number += 1
        self._joins[self._number] = _Join(len(message["units"]), message["then"])
        for unit in message["units"]:
            unit["join"] = self._number
        for unit in message["units"]:
            self._queue(unit)

    def _collect(self, _: int, message: Message) -> None:
        of_kind = self._items.setdefault(message["kind"], {})
        for key, item in message["items"]:
            of_kind.setdefault(tuple(key) if isinstance(key, list) else key, []).append(item)

    def _done(self, rank: int, message: Message) -> None:
        unit = self._movers[rank].busy.pop(message["id"], None)
        if unit is not None:
            self._done_with(unit, failed=message["failed"])

    def _done_with(self, unit: Unit, *, failed: bool) -> None:
        self._finding -= unit["do"] in _FINDING
        join = self._joins.get(unit.get("join", 0))
        if join is None:
            return
        join.count -= 1
        join.then["failed"] = failed or join.then.get("failed", False)
        if not join.count:
            del self._joins[unit["join"]]
            if not self.result.signal:
                self._queue(join.then)

    # --- what is told

    def _progress(self, _: int, message: Message) -> None:
        for name in self.result.counts:
            self.result.counts[name] += message[name]

    def _error(self, _: int, message: Message) -> None:
        self.result.errors.append((message["path"], message["text"]))

    def _differs(self, _: int, message: Message) -> None:
        self.result.differences.append((message["path"], message["text"]))

    _HANDLERS: Final[dict[str, Callable[["Coordinator", int, Message], None]]] = {
        "joined": _joined,
        "ready": _ready,
        "failed": _failed,
        "progress": _progress,
        "error": _error,
        "differs": _differs,
        "more": _more,
        "join": _join,
        "items": _collect,
        "done": _done,
    }

    # --- the end

    def _end(self) -> None:
        if self.result.signal:
            self._let_end()
        self._members.dismiss()

    def _let_end(self) -> None:
        """After a signal: what movers are at is brought to an end, so that it counts."""
        deadline_s = time.monotonic() + END_GRACE_S
        with contextlib.suppress(GkfsError):
            while any(mover.busy for mover in self._movers.values()) and time.monotonic() < deadline_s:
                self._turn()


def movers_by_default() -> int:
    """How many movers a node gets: one for each core, up to what a disk and a network have use for."""
    return min(_MOVERS_MAX, len(os.sched_getaffinity(0)))
