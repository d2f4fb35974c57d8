"""Which files are open where, and what becomes of open files that lose their last name.

A client says every `HOLD_RENEW_S` which files it has open (HOLD), and when it has closed one it spoke of
(RELEASE); a file that is opened and closed in between costs nothing. A file that loses its last name becomes
*nameless* (table 01) as long as somebody holds it. Who opened it a moment ago may not have said so yet: while
other clients are connected, it stays for `NAMELESS_GRACE_S` in any case; where the connection of one is broken,
until it has been back for so long, or has been away for `HOLDER_GONE_S`.

Holders of nameless files are stored, so that a restart forgets nobody; all others are in memory. A client that
says nothing for `HOLDER_GONE_S` is gone.
"""

import errno
import logging
from collections import deque

import trio

from gkfs import metadentry, paths
from gkfs.daemon import keys
from gkfs.daemon.guards import Blocked
from gkfs.daemon.reclaim import Reclaimer
from gkfs.daemon.records import Records
from gkfs.daemon.session import Session, Sessions
from gkfs.daemon.store import MetadataStore
from gkfs.errors import os_error
from gkfs.limits import HOLD_FILES, HOLDER_GONE_S, NAMELESS_GRACE_S, SCAN_PAGE_RECORDS
from gkfs.messages import Empty, HoldReply, HoldRequest, ReleaseRequest
from gkfs.metadentry import Metadentry

_log = logging.getLogger(__name__)


class Opens:
    """The handlers of HOLD and RELEASE, and the end of names and of nameless files."""

    def __init__(
        self, store: MetadataStore, records: Records, reclaimer: Reclaimer, sessions: Sessions, *, restarted: bool
    ) -> None:
        self._store = store
        self._records = records
        self._reclaimer = reclaimer
        self._sessions = sessions
        self._started_s = trio.current_time()
        self._restarted = restarted
        self._held: dict[int, dict[bytes, float]] = {}  # fid -> client -> when it last said so
        # Until when nameless files are kept whoever holds them, ascending; and which these are.
        self._grace: deque[tuple[float, int]] = deque()
        self._in_grace: set[int] = set()

    def hold(self, session: Session, request: HoldRequest) -> HoldReply:
        now_s = trio.current_time()
        lost = []
        if not len(request.paths) == len(request.fids) <= HOLD_FILES:
            raise os_error(errno.EINVAL, f"{len(request.paths)} paths, {len(request.fids)} files")
        for path, fid in zip(request.paths, request.fids, strict=True):
            if not paths.is_address(path):
                paths.check_path(path)
            try:
                key = self._records.find(path, fid).key
            except Blocked:
                continue  # it is here, and the client says so again
            except OSError:
                lost.append(fid)
                continue
            self._held.setdefault(fid, {})[session.client_id] = now_s
            if key == keys.orphan(fid):
                holder = keys.holder(fid, session.client_id)
                if self._store.get(holder) is None:
                    self._store.put(holder, b"")
        return HoldReply(lost)

    def release(self, session: Session, request: ReleaseRequest) -> Empty:
        fid = request.fid
        self._forget(fid, session.client_id)
        self._store.delete(keys.holder(fid, session.client_id))
        self._end_if_unwanted(fid)
        return Empty()

    def discard(self, client_id: bytes, entry: Metadentry, open_fid: int, now_ns: int) -> bool:
        """*entry* has lost its last name: it stays, nameless, or goes. Whether *client_id* keeps it open."""
        now_s = trio.current_time()
        holders = self._held.get(entry.fid, {})
        if entry.fid == open_fid:
            holders = holders | {client_id: now_s}
        grace_s = self._grace_s(client_id, now_s)
        if not entry.is_regular or not (holders or grace_s):
            self._reclaimer.add(entry)
            return False
        nameless = entry.changed(nlink=0, ctime_ns=now_ns)
        self._store.put(keys.orphan(entry.fid), metadentry.encode(nameless))
        for holder in holders:
            self._store.put(keys.holder(entry.fid, holder), b"")
        if holders:
            self._held[entry.fid] = holders
        if grace_s:  # whoever else is known to hold it
            self._begin_grace(entry.fid, now_s + grace_s)
        return entry.fid == open_fid

    def _grace_s(self, client_id: bytes, now_s: float) -> float:
        """For how long somebody but *client_id* may have opened the file without saying so; 0.0: nobody has."""
        if self._restarted and now_s - self._started_s < 2 * NAMELESS_GRACE_S:
            return NAMELESS_GRACE_S  # what was said before is forgotten
        others = self._sessions.has_other_client(client_id) or self._sessions.has_other_client_away(client_id)
        return NAMELESS_GRACE_S if others else 0.0

    def _is_held(self, fid: int) -> bool:
        return bool(self._store.scan(*keys.holders(fid), 1))

    def _forget(self, fid: int, client_id: bytes) -> None:
        holders = self._held.get(fid)
        if holders is not None:
            holders.pop(client_id, None)
            if not holders:
                del self._held[fid]

    def _begin_grace(self, fid: int, until_s: float) -> None:
        if self._grace:
            until_s = max(until_s, self._grace[-1][0])
        self._grace.append((until_s, fid))
        self._in_grace.add(fid)

    def _end_if_unwanted(self, fid: int) -> None:
        """A file without name goes, if nobody holds it and nobody may be about to say so."""
        if fid in self._in_grace or self._is_held(fid):
            return
        key = keys.orphan(fid)
        record = self._store.get(key)
        if record is not None:
            self._store.delete(key)
            self._reclaimer.add(metadentry.decode(record))

    # --- those who say nothing any more

    def resume(self) -> None:
        """Take up the nameless files of an earlier run."""
        until_s = self._started_s + 2 * NAMELESS_GRACE_S  # clients have to find their way back first
        for page in self._store.pages(*keys.table(keys.ORPHANS)):
            for key, _ in page:
                self._begin_grace(keys.fid_of_key(key), until_s)

    async def expire(self) -> None:
        """Let go of files that nobody has open any more; runs for ever."""
        next_s = 0.0
        while True:
            await trio.sleep(NAMELESS_GRACE_S / 4)
            try:
                self._end_graces()
                if trio.current_time() >= next_s:
                    await self._expire_holders()
                    self._sessions.expire()
                    next_s = trio.current_time() + HOLDER_GONE_S / 4
            except OSError as error:
                self._store.rollback()
                _log.warning("files without name: %s", error.strerror)

    def _end_graces(self) -> None:
        now_s = trio.current_time()
        if now_s - self._sessions.all_there_since_s() < NAMELESS_GRACE_S:
            return  # who is away says what it has open when it has come back
        while self._grace and self._grace[0][0] <= now_s:
            for _ in range(min(len(self._grace), SCAN_PAGE_RECORDS)):
                if self._grace[0][0] > now_s:
                    break
                fid = self._grace.popleft()[1]
                self._in_grace.discard(fid)
                self._end_if_unwanted(fid)
            self._store.commit()

    async def _expire_holders(self) -> None:
        oldest_s = trio.current_time() - HOLDER_GONE_S
        for fid in list(self._held):
            for client_id in [holder for holder, said_s in self._held[fid].items() if said_s < oldest_s]:
                self._forget(fid, client_id)
        for page in self._store.pages(*keys.table(keys.HOLDERS)):
            for key, _ in page:
                fid, client_id = keys.holder_of_key(key)
                if self._held.get(fid, {}).get(client_id, self._started_s) < oldest_s:
                    self._store.delete(key)
                    self._end_if_unwanted(fid)
            self._store.commit()
            await trio.lowlevel.checkpoint()
