"""Looking for events again and again for a moment before sleeping, as long as that pays (decision 9).

Going to sleep and being woken costs more than serving a request, for the one who sleeps and for the one who wakes
it: on a virtual machine tens of microseconds on either side. Between two looks whoever else wants the processor
gets it: what is waited for may be what they are about to do.
"""

import ctypes
import os
import time
from collections.abc import Callable
from typing import Any, Final

from gkfs.limits import SPINS_IN_VAIN, SPINS_LEFT_OUT

# That of `os` keeps the interpreter meanwhile, before Python 3.12; threads that move data want it.
_yield: Final = ctypes.CDLL(None).sched_yield


class Spinner:
    """Spins of *spin_s* at most. After some in vain many are left out before the next is tried."""

    __slots__ = ("_in_vain", "_left_out", "_spin_s", "client")

    def __init__(self, spin_s: float) -> None:
        self._spin_s = spin_s if len(os.sched_getaffinity(0)) > 1 else 0.0  # else it keeps the others from running
        self._in_vain = 0  # the latest, without one that paid between them
        self._left_out = 0  # so many more
        self.client: object = None  # who was served last; for the user of the spinner

    def look(self, poll: Callable[[], list[Any]]) -> list[Any]:
        """What *poll* returns as soon as that is something; nothing if it takes too long, or did of late."""
        if self._left_out:
            self._left_out -= 1
            return []
        if not self._spin_s:
            return []
        end_s = time.perf_counter() + self._spin_s
        while not (events := poll()):
            if time.perf_counter() >= end_s:  # asked after the look: others may have run for longer than that
                self._in_vain += 1
                if self._in_vain >= SPINS_IN_VAIN:
                    self._left_out = SPINS_LEFT_OUT
                return []
            _yield()
        self._in_vain = 0
        return events
