"""The members of a gang as processes: the leader's end of them, from launching to the last one's end.

What starts them (srun, ssh, ...) writes into a log without a name, unless another is given: nothing of it stays,
however the leader ends.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from gkfs.commands import children, launchers
from gkfs.commands.children import Child
from gkfs.commands.launchers import Launcher, Places
from gkfs.gang import Gang
from gkfs.limits import END_GRACE_S


class Members:
    """*per_host* processes on each of *places*, and the gang they join."""

    def __init__(self, places: Places, per_host: int = 1, log: Path | None = None, *, tls: bool = False) -> None:
        """Nothing is started yet. Raises GkfsError (ADDRESS)."""
        self.size = len(places.hosts) * per_host
        self.gang = Gang(self.size, only_this_host=places.launcher is Launcher.LOCAL, tls=tls)
        self.started: list[Child] = []  # what starts them, or on this machine themselves
        self._places = places
        self._per_host = per_host
        self._nameless = os.memfd_create("gkfs.log")
        self.log = log or Path(f"/proc/{os.getpid()}/fd/{self._nameless}")

    def launch(self, arguments: Sequence[str]) -> None:
        """Start `gkfs` *arguments* everywhere. Raises GkfsError when what starts them is missing."""
        self.started = launchers.launch_members(self._places, arguments, self.gang, self.log, self._per_host)

    def have_joined(self) -> None:
        """All are there: from now on they end when they are told to, or when we have ended."""
        for launcher in self.started:
            launchers.let_members_outlive(launcher)

    def wait(self) -> None:
        """Wait for the end of those who were told to end; after a while they are ended."""
        children.wait(self.started, END_GRACE_S)
        children.end(self.started)

    def dismiss(self) -> None:
        """Tell all to end, and close; who is at something is ended, too."""
        self.gang.broadcast({"do": "end"})
        with contextlib.suppress(OSError):
            self.gang.flush(END_GRACE_S)
        self.gang.close()
        self.wait()
        os.close(self._nameless)

    def close(self) -> None:
        """Nothing is listened to any more; for who has told them by itself."""
        self.gang.close()
        os.close(self._nameless)
