"""Simulated time: it stands still while anything can go on, and jumps to the next deadline when nothing can."""

import math
from collections.abc import Callable
from random import Random

import trio

# Nanoseconds since 1970 at the beginning of a run: a time like any other.
_EPOCH_NS = 1_700_000_000 * 10**9
_SPELL_CHANCE = 0.05  # that a look at the processor's clock finds a long time gone
_SPELL_S = 0.01
_IDLE_LOOKS_MAX = 1000  # trio makes some when it begins and ends


class Stuck(Exception):
    """Nothing can go on any more, and nothing waits for a time."""


class Clock(trio.abc.Clock):
    """The clock of a run of trio in which nothing comes from outside."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._idle_looks = 0
        # When something outside of trio's tasks is to happen next, and what to call then.
        self.next_s = math.inf
        self.wake: Callable[[], None] = lambda: None

    def start_clock(self) -> None:
        """Part of trio's Clock."""

    def current_time(self) -> float:
        """Part of trio's Clock."""
        return self.now_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Part of trio's Clock; asked when no task can go on: that is when time passes."""
        if self.next_s <= deadline and self.next_s < math.inf:
            self.now_s = max(self.now_s, self.next_s)
            self.next_s = math.inf
            self.wake()
            return 0.0
        if deadline == math.inf:
            self._idle_looks += 1
            if self._idle_looks > _IDLE_LOOKS_MAX:
                raise Stuck
            return 0.0
        self._idle_looks = 0
        self.now_s = max(self.now_s, deadline)
        return 0.0


class Times:
    """What the product's modules get for the module `time`."""

    def __init__(self, clock: Clock, random: Random) -> None:
        self._clock = clock
        self._random = random

    def monotonic(self) -> float:
        """The same clock as trio's, as on Linux."""
        return self._clock.now_s

    def time(self) -> float:
        """Seconds since 1970."""
        return self.time_ns() / 1e9

    def time_ns(self) -> int:
        """Nanoseconds since 1970."""
        return _EPOCH_NS + round(self._clock.now_s * 1e9)

    def perf_counter(self) -> float:
        """Who asks how long it has been running is sometimes told: too long."""
        return self._clock.now_s + (_SPELL_S if self._random.random() < _SPELL_CHANCE else 0.0)
