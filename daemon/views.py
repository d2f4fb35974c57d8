"""Who answers for which shard, as this process knows it, and what it has voted for. On disk; no I/O to others.

A view (`gkfs.copy_messages.View`) follows another when two of the other's members have voted for it: primary and
mirror, or one of them and the witness; of two members both, of one that one. Each votes for one view of a number
only, for ever: the vote is on the disk before it is told. So two views of one number cannot both be decided, and
whoever was left out by a decision learns of it from the first whom it asks.

The file is ``views.json`` in the rootdir of the process.
"""

import json
from pathlib import Path
from typing import Final

from gkfs.copy_messages import NOBODY, View
from gkfs.durable import write_json
from gkfs.errors import ExitStatus, GkfsError
from gkfs.hostfile import DaemonAddress

_NAME: Final = "views.json"


class Views:
    """The views of all shards."""

    def __init__(self, rootdir: Path) -> None:
        """Read what an earlier run has left in *rootdir*. Raises GkfsError (ROOTDIR) when it is damaged."""
        self._path = rootdir / _NAME
        self._known: dict[int, View] = {}
        self._voted: dict[int, View] = {}
        try:
            data = json.loads(self._path.read_bytes())
            self._known = {view[0]: View(*view) for view in data["known"]}
            self._voted = {view[0]: View(*view) for view in data["voted"]}
        except FileNotFoundError:
            pass
        except (ValueError, TypeError, KeyError, IndexError, OSError) as error:
            raise GkfsError(f"{self._path} is damaged: {error}", ExitStatus.ROOTDIR) from None

    def begin(self, views: list[View]) -> None:
        """The first views, which every process works out for itself. Raises OSError."""
        for view in views:
            self._known.setdefault(view.shard, view)
        self._write()

    def of(self, shard: int) -> View | None:
        """The newest view of *shard* known to be decided."""
        return self._known.get(shard)

    def all(self) -> list[View]:
        """The newest known views of all shards."""
        return list(self._known.values())

    def learn(self, view: View) -> bool:
        """*view* is decided; returns whether that is news. Raises OSError."""
        known = self._known.get(view.shard)
        if known is not None and known.number >= view.number:
            return False
        self._known[view.shard] = view
        self._write()
        return True

    def vote(self, own: int, base: View, wanted: View) -> bool:
        """Whether process *own* is for *wanted* to follow *base*, from now on and for ever. Raises OSError."""
        self.learn(base)  # whoever builds on it knows that it is decided
        if self._known[base.shard] != base or wanted.number != base.number + 1 or own not in base.members:
            return False
        voted = self._voted.get(base.shard)
        if voted is not None and voted.number >= wanted.number:
            return voted == wanted
        self._voted[base.shard] = wanted
        self._write()
        return True

    def voted(self, shard: int, number: int) -> View | None:
        """What this process has voted for as view *number*."""
        voted = self._voted.get(shard)
        return voted if voted is not None and voted.number == number else None

    def is_alive(self, process: int) -> bool:
        """Whether *process* still answers for the shard it was started for, as it must to be of use to others."""
        view = self._known.get(process)
        return view is not None and view.primary == process

    def _write(self) -> None:
        document = {"known": list(self._known.values()), "voted": list(self._voted.values())}
        write_json(self._path, self._path.with_suffix(".new"), document)


def first_views(daemons: dict[int, DaemonAddress]) -> list[View]:
    """The views of number 1 of a file system with these *daemons*: mirror and witness are the next ones.

    They are on other hosts than the primary, where there are others.
    """
    count = len(daemons)
    hosts = [daemons[index].host for index in range(count)]
    views = []
    for shard in range(count):
        others = [(shard + step) % count for step in range(1, count)]
        others.sort(key=lambda other: hosts[other] == hosts[shard])  # stable: the next ones, elsewhere first
        mirror = others.pop(0) if others else NOBODY
        others.sort(key=lambda other: hosts[other] in (hosts[shard], _host(hosts, mirror)))
        views.append(View(shard, 1, shard, mirror, others[0] if others else NOBODY))
    return views


def _host(hosts: list[str], process: int) -> str:
    return hosts[process] if process != NOBODY else ""
