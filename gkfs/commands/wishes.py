"""The options of `gkfs start` and `gkfs run` that say how a file system spans nodes, checked and put together."""

from pathlib import Path
from typing import Any, NamedTuple

from gkfs.commands import jobs, launchers
from gkfs.commands.launchers import Launcher, Places
from gkfs.commands.leader import Wishes
from gkfs.commands.mount import Options
from gkfs.errors import ExitStatus, GkfsError
from gkfs.hostfile import Features

_ALL_ADDRESSES = "tcp://0.0.0.0:0"
_THIS_HOST = "tcp://127.0.0.1:0"
_CORE_MAX = 1 << 12


class Spread(NamedTuple):
    """The options as given."""

    launcher: str
    hosts: str | None
    serve_on: str | None
    mount_on: str | None
    interface: str | None
    cores: str | None

    def places(self) -> Places:
        """Where to start. Raises GkfsError (USAGE)."""
        return launchers.find_places(self.launcher, self.hosts)

    def wishes(
        self,
        places: Places,
        rootdir: Path | None,
        mountdir: Path | None,
        daemons: int | None,
        listen: str | None,
        options: Options,
        log: Path | None,
        features: Features,
        capacity: int | None,
    ) -> Wishes:
        """What the leader is to do. Raises GkfsError (USAGE) on what cannot be."""
        return Wishes(
            jobs.name_of(),
            places,
            launchers.chosen(self.serve_on, places, "serve-on") if self.serve_on else places.hosts,
            launchers.chosen(self.mount_on, places, "mount-on") if self.mount_on else places.hosts,
            rootdir,
            mountdir,
            daemons or 1,
            self.interface,
            listen or (_THIS_HOST if places.launcher is Launcher.LOCAL else _ALL_ADDRESSES),
            parse_cores(self.cores) if self.cores else [],
            options,
            log,
            features,
            capacity,
        )


def take_spread(options: dict[str, Any]) -> Spread:
    """Take the options of `Spread` out of those that click gives."""
    return Spread(**{field: options.pop(field) for field in Spread._fields})


def parse_cores(text: str) -> list[int]:
    """The numbers that a list of cores names. Raises GkfsError (USAGE).

    >>> parse_cores("0-2,8")
    [0, 1, 2, 8]
    """
    cores: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal()) or not int(first) <= int(last) < _CORE_MAX:
            raise GkfsError(f"cores {text!r}: expected a list as 0-3,8", ExitStatus.USAGE)
        cores |= set(range(int(first), int(last) + 1))
    return sorted(cores)
