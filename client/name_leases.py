"""What this client knows of the names of directories that it fills alone, see `gkfs.daemon.name_leases`.

A name that is not among them is not there, as long as the lease lasts. That a name is among them says nothing: it
may have been removed since, or be about to come. So names are only added, before the request that brings one
leaves. (The kernel has one such request under way in a directory at a time.)
"""

import time

from gkfs.client.inodes import Inode
from gkfs.limits import NAMES_KNOWN_MAX, NAMES_LEASE_S
from gkfs.messages import CreateReply


class KnownNames:
    """Those of one directory at one daemon."""

    __slots__ = ("directory", "lease", "names", "until_s")

    def __init__(self, lease: int, directory: bytes, names: list[bytes]) -> None:
        self.lease = lease
        self.directory = directory  # the path under which they were told
        self.names = set(names)
        self.until_s = 0.0


class NameLeases:
    """Those of one mount."""

    def __init__(self) -> None:
        self.generation = 0  # how often everything was forgotten
        self._directories: set[Inode] = set()
        self._count = 0  # names known, all together

    def lack(self, parent: Inode, owner: int, directory: bytes, name: bytes) -> bool:
        """Whether it is known that the daemon *owner* has no *name* of *parent*, whose path is *directory*."""
        known = parent.names_known.get(owner) if parent.names_known is not None else None
        return (
            known is not None
            and name not in known.names
            and time.monotonic() < known.until_s
            and known.directory == directory
        )

    def begin(self, parent: Inode, owner: int, name: bytes) -> int:
        """A CREATE of *name* is about to leave; the lease to send with it, 0 for none."""
        known = parent.names_known.get(owner) if parent.names_known is not None else None
        if known is None:
            return 0
        self._add(known, name)
        return known.lease

    def comes(self, parent: Inode, name: bytes) -> None:
        """Another request that brings *name* is about to leave."""
        if parent.names_known is not None:
            for known in parent.names_known.values():
                self._add(known, name)

    def granted(
        self, parent: Inode, owner: int, directory: bytes, sent_s: float, generation: int, reply: CreateReply
    ) -> None:
        """*reply* to a CREATE that left at *sent_s*, when this was *generation*, for a name in *directory*."""
        lease = reply.names_lease
        if not lease or generation != self.generation:
            return
        known = parent.names_known.get(owner) if parent.names_known is not None else None
        if known is None or known.lease != lease:
            if not reply.names:
                return  # of one that was forgotten
            self._count += len(reply.names)
            known = KnownNames(lease, directory, reply.names)
            if parent.names_known is None:
                parent.names_known = {}
                self._directories.add(parent)
            parent.names_known[owner] = known
        known.until_s = max(known.until_s, sent_s + NAMES_LEASE_S)
        if self._count > NAMES_KNOWN_MAX:
            self.clear()

    def clear(self) -> None:
        """Forget everything: there is too much, or directories get other paths."""
        for directory in self._directories:
            directory.names_known = None
        self._directories.clear()
        self._count = 0
        self.generation += 1

    def _add(self, known: KnownNames, name: bytes) -> None:
        if name not in known.names:
            known.names.add(name)
            self._count += 1
