"""Looking for events again and again for a moment before sleeping, as long as that pays (decision 9).

Going to sleep and being woken costs more than serving a request, for the one who sleeps and for the one who wakes
it: on a virtual machine tens of microseconds on either side.
"""

import os
import time
from collections.abc import Callable
from typing import Any

from gkfs.limits import SPIN_GAP_S, SPINS_IN_VAIN, SPINS_LEFT_OUT


class Spinner:
    """Spins of *spin_s* at most. After some in vain many are left out before the next is tried.

    Those do not count during which somebody else had the processor: what was waited for may have come by then.
    """

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
        now_s = time.perf_counter()
        end_s = now_s + self._spin_s
        was_interrupted = False
        while now_s < end_s:
            events = poll()
            if events:
                self._in_vain = 0
                return events
            before_s, now_s = now_s, time.perf_counter()
            was_interrupted = was_interrupted or now_s - before_s > SPIN_GAP_S
        if not was_interrupted:
            self._in_vain += 1
            if self._in_vain >= SPINS_IN_VAIN:
                self._left_out = SPINS_LEFT_OUT
        return []
