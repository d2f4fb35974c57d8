"""Leases on the names of a directory, for who fills it alone.

Before a file is created the kernel asks whether the name is there. A client that has made the last few entries of
a directory here, while nobody else made any, is told all names that this daemon has of it; for `NAMES_LEASE_S`
after each further one, counted from before its request left, it knows that no other has appeared, and answers by
itself. An entry of somebody else waits until that is over, and for `NAMES_CALM_S` nobody gets such a lease on the
directory: who fills one together waits once at most, and who begins together not at all.

A lease has a number, which the client sends with each creation: whoever does not have this one is told the names
anew. In memory: a daemon that starts again waits as if every directory were leased.
"""

import random
from typing import Final

import trio

from gkfs import paths
from gkfs.daemon.guards import block_until
from gkfs.daemon.store import MetadataStore
from gkfs.limits import NAMES_CALM_S, NAMES_LEASE_AFTER, NAMES_LEASE_MAX, NAMES_LEASE_S, NAMES_LEASES_MAX

_NONE: Final[tuple[int, list[bytes]]] = (0, [])


class _Maker:
    """Who made the last entries of one directory."""

    __slots__ = ("client_id", "end_s", "entries", "fid", "lease", "not_before_s")

    def __init__(self, client_id: bytes, fid: int, not_before_s: float) -> None:
        self.client_id = client_id
        self.fid = fid  # of the directory: another may get its path
        self.entries = 0  # one after another, with nobody else's in between
        self.lease = 0
        self.end_s = 0.0
        self.not_before_s = not_before_s


class NameLeases:
    """Those of one daemon."""

    def __init__(self, nursery: trio.Nursery, store: MetadataStore, *, restarted: bool) -> None:
        self._nursery = nursery
        self._store = store
        self._makers: dict[bytes, _Maker] = {}  # of a directory's path
        self._last = random.getrandbits(32) << 24  # so that none is taken for one of an earlier run
        self._all_until_s = trio.current_time() + NAMES_LEASE_S if restarted else 0.0
        self._none_until_s = 0.0  # nobody gets a new one

    def enter(self, path: bytes, client_id: bytes) -> None:
        """An entry of *client_id* is to appear at *path*. Raises Blocked while another relies on what is there."""
        if self._all_until_s:
            self._check_all()
        directory = paths.split(path)[0]
        maker = self._makers.get(directory)
        if maker is None or maker.client_id == client_id:
            return
        now_s = trio.current_time()
        self._wait_until(self._recall(maker), directory)
        self._makers[directory] = _Maker(client_id, 0, max(maker.not_before_s, now_s + NAMES_CALM_S))

    def came(self, path: bytes) -> None:
        """An entry has appeared at *path* in another way than by CREATE: the next lease tells the names anew."""
        maker = self._makers.get(paths.split(path)[0])
        if maker is not None:
            maker.lease = 0

    def created(self, path: bytes, fid: int, client_id: bytes, lease: int) -> tuple[int, list[bytes]]:
        """What *client_id* is told, which holds *lease* or none (0) and has made *path* in the directory *fid*.

        The number of its lease, 0 for none, and the names here, if the lease is new.
        """
        directory = paths.split(path)[0]
        maker = self._makers.get(directory)
        if maker is None or maker.fid != fid:
            if len(self._makers) >= NAMES_LEASES_MAX:
                self._forget_ended()
            not_before_s = 0.0 if maker is None else maker.not_before_s
            maker = self._makers[directory] = _Maker(client_id, fid, not_before_s)
        maker.entries += 1
        if maker.entries < NAMES_LEASE_AFTER:
            return _NONE
        now_s = trio.current_time()
        if maker.lease and lease == maker.lease:
            maker.end_s = now_s + NAMES_LEASE_S
            return lease, []
        if now_s < max(maker.not_before_s, self._none_until_s):
            return _NONE
        first, end = paths.children_range(directory)
        found = self._store.scan(first, end, NAMES_LEASE_MAX + 1)
        if len(found) > NAMES_LEASE_MAX:
            maker.not_before_s = now_s + NAMES_CALM_S
            return _NONE
        self._last += 1
        maker.lease = self._last
        maker.end_s = now_s + NAMES_LEASE_S
        return maker.lease, [key[len(first) :] for key, _ in found]

    def end_within(self, tops: tuple[bytes, ...], client_id: bytes) -> None:
        """*client_id* moves *tops*, or something to their places. Raises Blocked while others have leases."""
        if self._all_until_s:
            self._check_all()
        within = [path for path in self._makers if any(paths.is_within(path, top) for top in tops)]
        last_s, last = 0.0, b""
        for directory in within:
            maker = self._makers[directory]
            if maker.client_id != client_id:
                last_s, last = max((last_s, last), (self._recall(maker), directory))
        if last_s > trio.current_time():  # or who goes on making directories there could keep it where it is
            self._none_until_s = last_s + NAMES_LEASE_S
        self._wait_until(last_s, last)
        for directory in within:
            del self._makers[directory]

    def clear(self) -> None:
        """Names have been mended."""
        self._makers.clear()

    def _recall(self, maker: _Maker) -> float:
        """When *maker*'s lease ends, which gets no other one meanwhile."""
        if maker.end_s > trio.current_time():
            maker.lease = 0
            maker.not_before_s = maker.end_s + NAMES_CALM_S
        return maker.end_s

    def _wait_until(self, end_s: float, directory: bytes) -> None:
        """Raises Blocked before *end_s*, when the lease on *directory* ends."""
        if end_s > trio.current_time():
            block_until(self._nursery, end_s, f"{paths.printable(directory)} is being filled by another node")

    def _check_all(self) -> None:
        if self._all_until_s > trio.current_time():
            reason = "the daemon has just started: who fills directories is not known"
            block_until(self._nursery, self._all_until_s, reason)
        self._all_until_s = 0.0

    def _forget_ended(self) -> None:
        """Make room: forget who has no lease now, or everybody who could have one only later."""
        now_s = trio.current_time()
        for path in [path for path, maker in self._makers.items() if maker.end_s <= now_s]:
            del self._makers[path]
