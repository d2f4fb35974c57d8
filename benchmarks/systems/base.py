"""What the benchmark knows of a system: how to set it up in a folder, who serves it, how to remove it."""

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from benchmarks.processes import Failed, kill_all, run, unmount

CLIENT = "client"
DAEMON = "daemon"


class Unavailable(Exception):
    """The system cannot be had here; the text says why, for the report."""


class System(ABC):
    """One system under test. *folder* is its own, made by set_up and removed by tear_down."""

    packages: ClassVar[tuple[str, ...]] = ()  # Debian's
    needs_root: ClassVar[bool] = False
    lacks: ClassVar[Mapping[str, str]] = {}  # what it cannot do (workloads.DIRECT): why; such rows are left out

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.mountpoint = folder / "mnt"

    @property
    @abstractmethod
    def title(self) -> str:
        """What it is, in a few words."""

    @abstractmethod
    def version(self) -> str:
        """Of its software."""

    @abstractmethod
    def bring_up(self) -> None:
        """Start it; afterwards files can be made in the mountpoint. Raises Failed or Unavailable."""

    def bring_down(self) -> None:
        """Unmount and end everything; also what a bring_up that failed has left. The default only unmounts."""
        unmount(self.mountpoint)

    def processes(self) -> dict[str, list[int]]:
        """Process ids by role, CLIENT and DAEMON. Empty: the kernel does all."""
        return {}

    def counters(self) -> dict[str, int]:
        """Running totals that the system keeps of itself: requests, batches. Empty: it does not say."""
        return {}

    def set_up(self) -> None:
        """Make the folders and bring it up. Raises Failed or Unavailable; then tear_down is still to be called."""
        if self.needs_root and os.geteuid():
            raise Unavailable("needs root")
        self.mountpoint.mkdir(parents=True)
        self.bring_up()

    def tear_down(self) -> None:
        """Nothing of it is left. Raises Failed when that cannot be had."""
        try:
            self.bring_down()
        finally:
            unmount(self.mountpoint)
            kill_all(self.folder)
        if os.path.ismount(self.mountpoint):
            raise Failed(f"still mounted: {self.mountpoint}")
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            raise Failed(f"cannot be removed: {self.folder}")

    def backing(self, name: str) -> Path:
        """A folder on the local disk for the system's data.

        Directories made in it are spread over the disk (chattr +T, where ext4 has it): otherwise what one system
        removes slows down what the next one creates beside it.
        """
        path = self.folder / name
        path.mkdir()
        spread(path)
        return path


def spread(path: Path) -> None:
    """Directories made in *path* get places of their own on an ext4 disk; elsewhere nothing happens."""
    try:
        run(["chattr", "+T", path], 10.0)
    except Failed:
        return  # another file system, or not ours: the report names the file system
