"""Keeping the idle processors of a virtual machine from halting while programs call one time after another.

Each call has the kernel wake the program that waited for it. On a virtual machine the program's processor has
halted meanwhile, and starting it again takes the hypervisor tens of microseconds, more than serving the call.
Linux has idle processors look for work instead while somebody asks it for a latency of nothing (decision 21).
"""

import contextlib
import os
from pathlib import Path
from typing import Final

# For as long as it is open, the kernel keeps to the latency, in microseconds, that was written to it last.
LATENCY_DEVICE: Final = Path("/dev/cpu_dma_latency")
# On hardware of one's own, a short idle time ends within a microsecond or two, and looking would cost much power.
IDLE_DRIVER: Final = Path("/sys/devices/system/cpu/cpuidle/current_driver")
_OF_VIRTUAL_MACHINES: Final = "haltpoll"
_NONE: Final = (0).to_bytes(4, "little")
_ANY: Final = (2_000_000_000).to_bytes(4, "little")  # what the kernel has when nobody asks


class Awake:
    """Asks while it is held, on a virtual machine, if this process may; else nothing here has any effect."""

    __slots__ = ("_fd", "_held")

    def __init__(self, device: Path = LATENCY_DEVICE, idle_driver: Path = IDLE_DRIVER) -> None:
        self._fd = -1
        self._held = False
        with contextlib.suppress(OSError):  # there is none in some containers, and it is for root only by default
            if idle_driver.read_text().strip() == _OF_VIRTUAL_MACHINES:
                self._fd = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
                self._ask(_ANY)

    def hold(self) -> None:
        """From now on idle processors do not halt. Harmless when they do not anyway."""
        if not self._held and self._fd >= 0:
            self._held = True
            self._ask(_NONE)

    def release(self) -> None:
        """They may halt again."""
        if self._held:
            self._held = False
            self._ask(_ANY)

    def close(self) -> None:
        """Release it for good. The kernel does so as well when the process ends."""
        self._held = False
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _ask(self, latency: bytes) -> None:
        with contextlib.suppress(OSError):  # it is slower then, nothing else
            os.write(self._fd, latency)
