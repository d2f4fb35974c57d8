"""Write leases: who may have written data that its daemons do not have yet.

A client that is the only one to write to a file does not wait for each write: the file's daemon gives it a
*lease*. Whoever else wants to write to chunks of that file says so here first, and waits until the holder, which
renews its lease all the time and so learns of it, has nothing on its way any more. From then on both wait for each
of their writes, until one of them has not asked for `WRITE_RIGHT_S`. So of two nodes that write the same bytes one
after the other, the second wins, as with the one disk of one computer.

Nobody is told: a lease that is not renewed runs out, whatever becomes of its holder. In memory: who starts again,
or has seen a directory of files renamed to here, gives none for `WRITE_RIGHT_S`.
"""

import trio

from gkfs.daemon.guards import Blocked, Guard
from gkfs.limits import LEASES_MAX, WRITE_LEASE_S, WRITE_RIGHT_S, WRITE_SETTLE_S
from gkfs.paths import is_within


class _File:
    """The writers of one file, and which of them has the lease."""

    __slots__ = ("guard", "holder", "last_s", "lease_until_s", "path", "rights")

    def __init__(self) -> None:
        self.path = b""  # where its record is
        self.rights: dict[bytes, float] = {}  # client id -> until when it may write; b"": some that are not known
        self.holder = b""
        self.lease_until_s = 0.0
        self.guard: Guard | None = None  # what others wait for
        self.last_s = 0.0  # they do so until then at most

    def end_lease(self) -> None:
        """Let who waits go on."""
        self.lease_until_s = 0.0
        if self.guard is not None:
            self.guard.lifted.set()
            self.guard = None


class Writers:
    """The writers of the files whose records are here."""

    def __init__(self, nursery: trio.Nursery, *, restarted: bool) -> None:
        self._nursery = nursery
        self._files: dict[int, _File] = {}  # by fid
        self._none_until_s = trio.current_time() + WRITE_RIGHT_S if restarted else 0.0
        self._look_from_s = 0.0  # for files that have no writers any more

    def declare(self, path: bytes, fid: int, client_id: bytes, *, behind: bool, wanted: bool) -> bool:
        """*client_id* writes to the file at *path* for `WRITE_RIGHT_S` from now on; True: it has a lease.

        *behind*: it has the lease as far as it knows, and may have data on its way. Raises Blocked while another
        one has.
        """
        now_s = trio.current_time()
        file = self._files.get(fid) or self._new(fid, now_s)
        if file is None:
            return False
        others = any(until_s > now_s and client != client_id for client, until_s in file.rights.items())
        file.path = path
        file.rights[client_id] = now_s + WRITE_RIGHT_S
        if file.lease_until_s > now_s and file.holder != client_id:
            raise Blocked(self._guard(file))
        if behind and file.holder == client_id and file.lease_until_s > now_s:
            end_s = now_s + WRITE_LEASE_S
            file.lease_until_s = end_s if file.guard is None else min(end_s, file.last_s)
            return not others
        if others or now_s < self._none_until_s:
            file.end_lease()
            return False
        if not wanted:
            return False
        file.holder, file.lease_until_s = client_id, now_s + WRITE_LEASE_S
        return True

    def check(self, fid: int, client_id: bytes) -> None:
        """*client_id* writes to the file's record. Raises Blocked while another one has the lease."""
        file = self._files.get(fid)
        if file is not None and file.lease_until_s > trio.current_time() and file.holder != client_id:
            file.rights[client_id] = trio.current_time() + WRITE_RIGHT_S
            raise Blocked(self._guard(file))

    def leave(self, fid: int) -> None:
        """The record is to go to another daemon, which knows of no lease. Raises Blocked while there is one."""
        file = self._files.get(fid)
        if file is not None:
            _raise_first([self._recall(file)])

    def leave_within(self, tops: tuple[bytes, ...]) -> None:
        """As `leave`, for all files at or below *tops*: all leases are recalled, then the first is waited for.

        Nobody gets a new one meanwhile, or who goes on making files there could keep the directory where it is.
        """
        leased = [file for file in self._files.values() if file.lease_until_s]
        within = [file for file in leased if any(is_within(file.path, top) for top in tops)]
        guards = [self._recall(file) for file in within]
        if any(guards):
            self._none_until_s = max(self._none_until_s, trio.current_time() + 2 * WRITE_LEASE_S)
        _raise_first(guards)

    def _recall(self, file: _File) -> Guard | None:
        """Have the next renewal refused; what to wait for, if there is a lease."""
        now_s = trio.current_time()
        if file.lease_until_s <= now_s:
            return None
        file.rights[b""] = max(now_s + WRITE_LEASE_S, file.rights.get(b"", 0.0))
        return self._guard(file)

    def settled(self, fid: int, client_id: bytes, *, leaves: bool) -> None:
        """*client_id* has nothing on its way, and gives the lease back; with *leaves* it is no writer any more."""
        file = self._files.get(fid)
        if file is None:
            return
        if file.holder == client_id:
            file.end_lease()
        if leaves:
            file.rights.pop(client_id, None)
            if not file.rights:
                del self._files[fid]

    def is_at(self, fid: int, path: bytes) -> None:
        """The file's record is at *path* now."""
        file = self._files.get(fid)
        if file is not None:
            file.path = path

    def file_came(self, fid: int, path: bytes) -> None:
        """A rename has brought the file here, to *path*; who may write to it is not known."""
        file = self._files.get(fid) or self._new(fid, trio.current_time())
        if file is not None:
            file.path = path
            file.rights[b""] = trio.current_time() + WRITE_RIGHT_S

    def files_came(self) -> None:
        """A rename of a directory has brought files here, or may have."""
        self._none_until_s = trio.current_time() + WRITE_RIGHT_S

    def _new(self, fid: int, now_s: float) -> _File | None:
        """None when there is no room for it: then nobody gets a lease for as long as its writers have a right."""
        if len(self._files) >= LEASES_MAX:
            if now_s >= self._look_from_s:
                for known in [known for known, file in self._files.items() if max(file.rights.values()) <= now_s]:
                    del self._files[known]
            if len(self._files) >= LEASES_MAX:
                self._look_from_s = max(self._look_from_s, now_s + 1.0)
                self._none_until_s = max(self._none_until_s, now_s + WRITE_RIGHT_S)
                return None
        file = self._files[fid] = _File()
        return file

    def _guard(self, file: _File) -> Guard:
        """What lifts when the lease ends; its holder has `WRITE_SETTLE_S` from now on."""
        if file.guard is None:
            file.guard = Guard("another node is writing to it")
            file.last_s = trio.current_time() + WRITE_SETTLE_S
            self._nursery.start_soon(_end_in_time, file, file.guard)
        return file.guard


def _raise_first(guards: list[Guard | None]) -> None:
    for guard in guards:
        if guard is not None:
            raise Blocked(guard)


async def _end_in_time(file: _File, guard: Guard) -> None:
    """Lift *guard* when the lease has run out, unless its holder is faster."""
    while not guard.lifted.is_set():
        now_s = trio.current_time()
        if file.lease_until_s <= now_s:
            file.end_lease()
            return
        with trio.move_on_at(file.lease_until_s):
            await guard.lifted.wait()
