"""The local disk, with nothing in between."""

import os

from benchmarks.systems.base import System, spread


class Disk(System):
    """A folder of it."""

    @property
    def title(self) -> str:
        return "local disk"

    def version(self) -> str:
        return f"Linux {os.uname().release}"

    def bring_up(self) -> None:
        spread(self.mountpoint)
