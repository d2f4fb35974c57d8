"""Who answers for which shard, as this process knows it, and what it has voted for. On disk; no I/O to others.

A view (`gkfs.copy_messages.View`) follows another when two of the other's members have voted for it: primary and
mirror, or one of them and the witness; of two members both. Without a mirror nobody but the primary can want
another one, so its own vote is enough. Each votes for one view of a number only, for ever: the vote is on the disk
before it is told. So two views of one number cannot both be decided, and whoever was left out by a decision learns
of it from the first whom it asks.

One vote may be changed: that of a mirror for itself, for what the primary wants instead. Only the mirror counts
votes for its own wish, and it stops. Else a shard whose witness is gone would be closed for ever after primary and
mirror have lost each other for a moment.

Also here: which shards this process has answered for. Who has not, and yet finds that there is a copy, has lost
what there was.

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
        self._opened: set[int] = set()
        try:
            data = json.loads(self._path.read_bytes())
            self._known = {view[0]: View(*view) for view in data["known"]}
            self._voted = {view[0]: View(*view) for view in data["voted"]}
            self._opened = set(data.get("opened", self._known))  # an earlier version did not note that
        except FileNotFoundError:
            pass
        except (ValueError, TypeError, KeyError, IndexError, OSError) as error:
            raise GkfsError(f"{self._path} is damaged: {error}", ExitStatus.ROOTDIR) from None

    def begin(self, views: list[View]) -> None:
        """The first views, which every process works out for itself. Raises OSError."""
        self._write(known={view.shard: view for view in views} | self._known)

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
        self._write(known=self._known | {view.shard: view})
        return True

    def vote(self, own: int, base: View, wanted: View) -> bool:
        """Whether process *own* is for *wanted* to follow *base*, from now on and for ever but as `gives_in` says.

        Raises OSError.
        """
        self.learn(base)  # whoever builds on it knows that it is decided
        if not self._may_follow(own, base, wanted):
            return False
        if self.voted(base.shard, wanted.number) != wanted:
            self._write(voted=self._voted | {base.shard: wanted})
        return True

    def gives_in(self, own: int, base: View, wanted: View) -> bool:
        """Whether *own* is the mirror of *base*, has voted for itself, and the primary, which asks, has not."""
        voted = self.voted(base.shard, wanted.number)
        wants_itself = voted is not None and own == base.mirror == voted.primary
        return self._known.get(base.shard) == base and wants_itself and wanted.primary == base.primary

    def decide(self, own: int, base: View, wanted: View) -> bool:
        """Vote, where that decides: *own* is the primary of *base*, which has no mirror. Raises OSError."""
        if base.primary != own or base.mirror != NOBODY or not self._may_follow(own, base, wanted):
            return False
        # In one: a vote for a mirror that failed before it was decided would be brought to an end later.
        self._write(known=self._known | {base.shard: wanted}, voted=self._voted | {base.shard: wanted})
        return True

    def _may_follow(self, own: int, base: View, wanted: View) -> bool:
        if self._known.get(base.shard) != base or wanted.number != base.number + 1 or own not in base.members:
            return False
        voted = self._voted.get(base.shard)
        if voted is None or voted.number < wanted.number or voted == wanted:
            return True
        return self.gives_in(own, base, wanted)

    def voted(self, shard: int, number: int) -> View | None:
        """What this process has voted for as view *number*."""
        voted = self._voted.get(shard)
        return voted if voted is not None and voted.number == number else None

    def pending(self, shard: int) -> View | None:
        """What this process has voted for and does not know to be decided, or decided otherwise."""
        view = self._known.get(shard)
        return self.voted(shard, view.number + 1) if view is not None else None

    def is_alive(self, process: int) -> bool:
        """Whether *process* still answers for the shard it was started for, as it must to be of use to others."""
        view = self._known.get(process)
        return view is not None and view.primary == process

    def has_opened(self, shard: int) -> bool:
        """Whether this process has ever answered for *shard*."""
        return shard in self._opened

    def open(self, shard: int) -> None:
        """It will, from now on. Raises OSError."""
        if shard not in self._opened:
            self._write(opened=self._opened | {shard})

    def _write(
        self,
        known: dict[int, View] | None = None,
        voted: dict[int, View] | None = None,
        opened: set[int] | None = None,
    ) -> None:
        """Replace what is given, on the disk first: what cannot be written was not said."""
        known = self._known if known is None else known
        voted = self._voted if voted is None else voted
        opened = self._opened if opened is None else opened
        document = {"known": list(known.values()), "voted": list(voted.values()), "opened": sorted(opened)}
        write_json(self._path, self._path.with_suffix(".new"), document)
        self._known, self._voted, self._opened = known, voted, opened


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
