"""The simulated network: streams between hosts that are slow, torn, clogged and cut, as the seed has it.

Within one connection bytes arrive in order and once, as with TCP. What is simulated is what TCP does not promise:
when they arrive, in which pieces, how much is taken at once, which of them arrive before a connection breaks, and
when each end learns of that.
"""

import heapq
import math
from collections.abc import Callable
from functools import partial
from itertools import count
from random import Random
from typing import NamedTuple

import trio

from gkfs.limits import PEER_UNCONFIRMED_S
from tests.simulation.clock import Clock

Event = Callable[[], None]


def _nothing() -> None:
    pass


class Profile(NamedTuple):
    """How a network behaves."""

    delay_min_s: float
    delay_max_s: float
    spike_chance: float  # of a piece to take up to *spike_max_s*
    spike_max_s: float
    short_chance: float  # that what arrived is received only in part
    capacity_bytes: int  # of what was sent and not received, one way; what has room is taken at once
    break_chance: float  # of a connection to end after some bytes

    @classmethod
    def drawn(cls, random: Random, *, calm: bool) -> "Profile":
        """One of those a cluster may have; *calm*: nothing breaks by itself."""
        fast = random.random() < 0.6
        return cls(
            delay_min_s=2e-5 if fast else 1e-3,
            delay_max_s=3e-4 if fast else random.choice([5e-3, 5e-2]),
            spike_chance=random.choice([0.0, 0.01, 0.05]),
            spike_max_s=random.choice([0.05, 0.4]),
            short_chance=random.choice([0.0, 0.1, 0.5]),
            capacity_bytes=random.choice([2 << 10, 64 << 10, 4 << 20]),
            break_chance=0.0 if calm else random.choice([0.0, 0.2, 0.6]),
        )


class Network:
    """All hosts' network. `run` is the task that lets things happen when it is time."""

    def __init__(self, clock: Clock, random: Random, profile: Profile) -> None:
        self.clock = clock
        self.random = random
        self.profile = profile
        self.events = 0
        self._queue: list[tuple[float, int, Event]] = []
        self._numbers = count()
        self._cut: dict[tuple[str, str], float] = {}  # (from, to) -> until when nothing arrives
        self._cut_since: dict[tuple[str, str], float] = {}
        # host -> for how long it was cut off from another, or one had to wait to send all it had, at the longest
        self.stalled_s: dict[str, float] = {}
        self.pipes: list[Pipe] = []

    def at(self, time_s: float, event: Event) -> None:
        """Have *event* happen at *time_s*."""
        heapq.heappush(self._queue, (time_s, next(self._numbers), event))
        self.clock.next_s = min(time_s, self.clock.next_s)

    async def run(self) -> None:
        """Let everything happen at its time; until cancelled."""
        while True:
            while self._queue and self._queue[0][0] <= self.clock.now_s:
                self.events += 1
                heapq.heappop(self._queue)[2]()
            self.clock.next_s = self._queue[0][0] if self._queue else math.inf
            task = trio.lowlevel.current_task()
            self.clock.wake = partial(trio.lowlevel.reschedule, task)
            await trio.lowlevel.wait_task_rescheduled(self._cancelled)

    def _cancelled(self, _: object) -> trio.lowlevel.Abort:
        self.clock.wake = _nothing
        self.clock.next_s = math.inf
        return trio.lowlevel.Abort.SUCCEEDED

    def delay_s(self) -> float:
        """How long one piece takes."""
        profile = self.profile
        if profile.spike_chance and self.random.random() < profile.spike_chance:
            return self.random.uniform(0.0, profile.spike_max_s)
        return self.random.uniform(profile.delay_min_s, profile.delay_max_s)

    def part_of(self, size: int) -> int:
        """How many of *size* bytes one call receives."""
        if size > 1 and self.profile.short_chance and self.random.random() < self.profile.short_chance:
            return self.random.randint(1, size)
        return size

    # --- faults

    def cut(self, source: str, target: str, until_s: float) -> None:
        """Nothing that *source* sends reaches *target* before *until_s*."""
        way, now_s = (source, target), self.clock.now_s
        if self._cut.get(way, 0.0) < now_s:
            self._cut_since[way] = now_s
        self._cut[way] = max(until_s, self._cut.get(way, 0.0))
        self.stalled(way, self._cut[way] - self._cut_since[way])

    def stalled(self, way: tuple[str, str], seconds: float) -> None:
        """For so long nothing, or not all, got through."""
        for host in way:
            self.stalled_s[host] = max(self.stalled_s.get(host, 0.0), seconds)

    def cut_until_s(self, source: str, target: str) -> float:
        """Until when nothing gets there; 0.0 when it does."""
        return self._cut.get((source, target), 0.0) if self._cut else 0.0

    def heal(self) -> None:
        """From now on nothing is cut, and nothing breaks by itself."""
        self._cut.clear()
        self.profile = self.profile._replace(break_chance=0.0, spike_chance=0.0)
        for pipe in self.pipes:
            pipe.breaks_after = -1
            pipe.go_on()

    def live_pipes(self) -> "list[Pipe]":
        """Both directions of all connections that are up."""
        self.pipes = [pipe for pipe in self.pipes if not (pipe.ended or pipe.lost)]
        return self.pipes


class Pipe:
    """One direction of a connection. What arrives is in *arrived*; *on_change* is called when something did."""

    def __init__(self, network: Network, source: str, target: str) -> None:
        self._network = network
        self._source = source
        self._target = target
        self._wire: list[tuple[float, float, bytes]] = []  # (arrives, was sent, bytes), in order
        self._next = 0  # of *_wire*
        self._scheduled = False
        self._last_s = 0.0
        self._waiting_since_s = math.inf  # since then the sender has had more than there was room for
        self.wire_bytes = 0
        self.arrived = bytearray()
        self.finished = False  # nothing more was sent
        self.ended = False  # nothing more arrives, which the receiver knows
        self.lost = False  # what is sent arrives nowhere, which the sender does not know
        self._torn = False  # it is about to break: what is put in now does not arrive
        self.breaks_after = -1  # bytes; -1: does not
        self.on_change: Event = _nothing
        self.on_break: Event = _nothing
        self.on_drain: Event = _nothing
        if network.random.random() < network.profile.break_chance:
            self.breaks_after = round(2 ** network.random.uniform(6, 17))
        network.pipes.append(self)

    @property
    def room_bytes(self) -> int:
        """How much the sender may still put in."""
        if self.lost or self._torn:
            return self._network.profile.capacity_bytes
        return max(0, self._network.profile.capacity_bytes - self.wire_bytes - len(self.arrived))

    def room_for(self, size: int) -> int:
        """How many of *size* bytes the sender may put in now; how long it has to wait with some is noted."""
        now_s = self._network.clock.now_s
        count = min(size, self.room_bytes)
        since_s = min(self._waiting_since_s, now_s)
        self._network.stalled((self._source, self._target), now_s - since_s)
        self._waiting_since_s = since_s if count < size else math.inf
        return count

    def put(self, data: bytes) -> None:
        """Take *data* from the sender."""
        if self.lost or self._torn:
            return
        now_s = self._network.clock.now_s
        if 0 <= self.breaks_after <= len(data):
            data = data[: self.breaks_after]
            self.breaks_after = -1
            self._torn = True
            self._network.at(now_s + self._network.delay_s(), self.on_break)
        elif self.breaks_after > 0:
            self.breaks_after -= len(data)
        if not data:  # torn before its first byte: nothing of it arrives, nor an end
            return
        self._last_s = max(self._last_s, now_s + self._network.delay_s())
        self._wire.append((self._last_s, now_s, data))
        self.wire_bytes += len(data)
        self._schedule()

    def finish(self) -> None:
        """The sender has closed: the end follows what it has sent."""
        if not self.finished:
            self.finished = True
            if self.lost:
                return
            self._last_s = max(self._last_s, self._network.clock.now_s + self._network.delay_s())
            self._wire.append((self._last_s, self._network.clock.now_s, b""))
            self._schedule()

    def lose(self) -> None:
        """The connection breaks: of what is under way a part arrives, perhaps; then nothing."""
        if self.lost:
            return
        data = b"".join(data for _, _, data in self._wire[self._next :])
        self.arrived += data[: self._network.random.randint(0, len(data))]
        self.lost = True
        self._wire.clear()
        self._next = self.wire_bytes = 0
        self.on_change()

    def go_on(self) -> None:
        """What was cut is whole again."""
        if self._next < len(self._wire):
            self._network.at(self._network.clock.now_s, self._arrive)

    def _schedule(self) -> None:
        if not self._scheduled and self._next < len(self._wire):
            self._scheduled = True
            self._network.at(self._wire[self._next][0], self._arrive_scheduled)

    def _arrive_scheduled(self) -> None:
        self._scheduled = False
        self._arrive()

    def _arrive(self) -> None:
        network = self._network
        now_s = network.clock.now_s
        until_s = network.cut_until_s(self._source, self._target)
        if until_s > now_s and self._next < len(self._wire):
            if now_s - self._wire[self._next][1] >= PEER_UNCONFIRMED_S:
                self.on_break()
            elif not self._scheduled:
                self._scheduled = True
                network.at(min(until_s, now_s + PEER_UNCONFIRMED_S), self._arrive_scheduled)
            return
        changed = False
        while self._next < len(self._wire) and self._wire[self._next][0] <= now_s:
            data = self._wire[self._next][2]
            self._next += 1
            changed = True
            if data:
                self.arrived += data
                self.wire_bytes -= len(data)
            else:
                self.ended = True
        if self._next == len(self._wire):
            self._wire.clear()
            self._next = 0
        self._schedule()
        if changed:
            self.on_change()
