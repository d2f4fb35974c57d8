"""Leases: for how long a client may take it that a path is still the same, with the same attributes.

Programs walk the same directories again and again, and the kernel asks for a file's attributes before each read.
A client that looked a directory up, or that reads an open file, may let its kernel use what it knows for
`LEASE_S`, counted from before its request left. Who wants to change it meanwhile waits until no other client has a
lease, and no new one is given until it is done: so a change still shows at once everywhere. (That entries come and
go changes a directory's times, and waits for nobody.) Nobody is told and nothing is given back: a lease only runs
out, whatever becomes of its holder. A file that one node changes and another reads is not leased for some time.

In memory: a daemon that starts again waits as if every path were leased.
"""

from typing import Final

import trio

from gkfs.daemon.guards import block_until
from gkfs.limits import CONNECTIONS_MAX, FILE_CALM_S, LEASE_S, LEASES_MAX
from gkfs.metadentry import Metadentry
from gkfs.paths import printable

# After a wait is over, for who waited to run again before anyone gets a new lease.
_PRIORITY_S: Final = 0.2


class Leases:
    """The leases of the directories and files whose records are here."""

    def __init__(self, nursery: trio.Nursery, *, restarted: bool) -> None:
        self._nursery = nursery
        self._held: dict[bytes, dict[bytes, float]] = {}  # path -> client id -> end, on trio's clock
        self._refused: dict[bytes, float] = {}  # path -> until when none is given
        self._all_until_s = trio.current_time() + LEASE_S if restarted else 0.0

    def grant(self, path: bytes, client_id: bytes) -> bool:
        """Lease *path* to a client, unless somebody waits to change it."""
        now_s = trio.current_time()
        if self._refused and self._refused.get(path, 0.0) > now_s:
            return False
        holders = self._held.get(path)
        if holders is None:
            if len(self._held) >= LEASES_MAX and not self._drop_ended(now_s):
                return False
            holders = self._held[path] = {}
        elif len(holders) >= CONNECTIONS_MAX and client_id not in holders:
            for holder in [holder for holder, end_s in holders.items() if end_s <= now_s]:
                del holders[holder]
            if len(holders) >= CONNECTIONS_MAX:
                return False
        holders[client_id] = now_s + LEASE_S
        return True

    def moved(self, path: bytes, client_id: bytes) -> None:
        """*client_id* has given a directory this path: its kernel may still use what it knew of the old name."""
        self.grant(path, client_id)

    def check_file(self, path: bytes, client_id: bytes) -> None:
        """As `check_change`, of a file, which then is not leased for `FILE_CALM_S`."""
        if path in self._held or self._all_until_s:
            self.check_change(path, client_id, is_file=True)

    def check_entry(self, entry: Metadentry, path: bytes, client_id: bytes) -> None:
        """`check_change` or `check_file`, as *entry* at *path* is one or the other."""
        if entry.is_directory:
            self.check_change(path, client_id)
        else:
            self.check_file(path, client_id)

    def check_change(self, path: bytes, client_id: bytes, *, is_file: bool = False) -> None:
        """Raise Blocked while a client other than *client_id* may take *path* for what it is now."""
        now_s = trio.current_time()
        holders = self._held.get(path, {})
        end_s = max((end_s for holder, end_s in holders.items() if holder != client_id), default=0.0)
        end_s = max(end_s, self._all_until_s)
        if end_s <= now_s:
            self._all_until_s = 0.0
            # What is left is *client_id*'s own lease, which others wait for.
            if max(holders.values(), default=0.0) <= now_s:
                self._held.pop(path, None)
            if not is_file:
                self._refused.pop(path, None)
            return
        for waited in [waited for waited, until_s in self._refused.items() if until_s < now_s]:
            del self._refused[waited]
        self._refused[path] = end_s + (FILE_CALM_S if is_file else _PRIORITY_S)
        block_until(self._nursery, end_s, f"{printable(path)} was looked at by other nodes a moment ago")

    def _drop_ended(self, now_s: float) -> bool:
        """Forget leases that ran out; whether there is room again."""
        for path in [path for path, holders in self._held.items() if max(holders.values()) <= now_s]:
            del self._held[path]
        return len(self._held) < LEASES_MAX
