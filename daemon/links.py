"""Files with several names.

A record is found by its path, so a file that gets a second name must first leave it: DETACH moves the record to
the file's inode address, which hashes to an owner of its own, and puts a link under the name. From then on its
owner keeps the count: LINK raises it before the new name appears, DROP_LINK lowers it after one is gone, so that
it may be too high for a moment but never too low. A file stays like this also when only one name is left.

    detach   intent (path held) -> PUT_INODE at the address's owner -> link under the name, intent goes
    link     count + 1, intent LINKING -> ADOPT at the new name's owner -> LINKED -> FORGET_INTENT
             refused: count - 1, intent goes
    unlink   name goes, intent DROPPING -> DROP_LINK at the address's owner -> DROPPED -> FORGET_INTENT

The intent is stored with the first change, each step may be repeated, and a restart goes on from the stored state.
"""

import errno
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final

import msgpack
import trio

from gkfs import metadentry, paths
from gkfs.daemon import intents, keys
from gkfs.daemon.background import persist
from gkfs.daemon.guards import Blocked, Guard, Guards
from gkfs.daemon.intents import Intent
from gkfs.daemon.leases import Leases
from gkfs.daemon.opens import Opens
from gkfs.daemon.peers import Peers
from gkfs.daemon.records import Records
from gkfs.daemon.room import Room
from gkfs.daemon.session import Session, Sessions
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.writers import Writers
from gkfs.distributor import Distributor
from gkfs.errors import os_error
from gkfs.limits import LINKS_MAX, LOCK_WAIT_S, RETRY_FIRST_S
from gkfs.messages import (
    RENAME_NOREPLACE,
    DetachRequest,
    Empty,
    LinkRequest,
    RecordReply,
    UnlinkReply,
    UnlinkRequest,
)
from gkfs.operations import ADOPT, DROP_LINK, FORGET_INTENT, LINK, PUT_INODE, UNLINK
from gkfs.peer_messages import AdoptRequest, DropLinkRequest, ForgetIntentRequest, PutInodeRequest

_log = logging.getLogger(__name__)

_DETACH: Final = "detach"  # kinds of intents
_LINK: Final = "link"
_DROP: Final = "drop link"
_BEGUN: Final = "begun"  # their states
_DONE: Final = "done"

_NO_ANSWER: Final = msgpack.packb(None)


class Links:
    """The handlers of DETACH, PUT_INODE, LINK and DROP_LINK, and UNLINK of files with several names."""

    def __init__(
        self,
        store: MetadataStore,
        records: Records,
        guards: Guards,
        distributor: Distributor,
        peers: Peers,
        opens: Opens,
        sessions: Sessions,
        leases: Leases,
        writers: Writers,
        nursery: trio.Nursery,
        room: Room,
    ) -> None:
        self._store = store
        self._records = records
        self._leases = leases
        self._writers = writers
        self._room = room
        self._guards = guards
        self._distributor = distributor
        self._peers = peers
        self._opens = opens
        self._sessions = sessions
        self._nursery = nursery

    # --- detach, at the owner of the only name

    def detach(self, session: Session, request: DetachRequest) -> Empty | Coroutine[Any, Any, Empty]:
        path, fid = request
        if paths.is_address(path):
            return Empty()  # LINK says whether it is still there
        if self._guards.active:
            self._guards.check_change(path)
        record = self._records.at(path)
        if metadentry.fid_of(record) != fid:
            raise os_error(errno.ESTALE, f"{paths.printable(path)} is no longer file {fid:x}")
        entry = metadentry.decode(record)
        if entry.is_directory:
            raise os_error(errno.EPERM, f"{paths.printable(path)}: directories have one name")
        if entry.is_link:
            return Empty()
        self._guards.check_fid(fid)
        self._leases.check_file(path, session.client_id)
        self._writers.leave(fid)
        self._guards.hold_path(path, "is getting a second name")
        return self._detach(Intent(intents.new_name(), _DETACH, _BEGUN, [path]))

    async def _detach(self, intent: Intent) -> Empty:
        path: bytes = intent.fields[0]
        try:
            self._note(intent)
        except OSError:
            self._guards.lift_path(path)
            raise
        try:
            await self._move_record(path)
        except TimeoutError:
            self._later(intent, self._finish_detach)  # it may have happened
            raise
        except OSError:
            self._forget(intent)
            self._guards.lift_path(path)
            raise
        try:
            self._leave_link(intent)
        except OSError:
            self._later(intent, self._finish_detach)
            raise
        return Empty()

    async def _finish_detach(self, intent: Intent) -> bool:
        await self._move_record(intent.fields[0])
        self._leave_link(intent)
        return True

    async def _move_record(self, path: bytes) -> None:
        record = self._records.at(path)  # it stays as it is, since the path is held
        fid = metadentry.fid_of(record)
        await self._peers.call(self._inode_owner(fid), PUT_INODE, PutInodeRequest(fid, record))

    def _leave_link(self, intent: Intent) -> None:
        # no await between here and the commit
        path: bytes = intent.fields[0]
        link = metadentry.decode(self._records.at(path)).link()
        self._store.put(paths.key(path), metadentry.encode(link))
        self._forget(intent)
        self._guards.lift_path(path)

    def put_inode(self, session: Session, request: PutInodeRequest) -> Empty:
        key = paths.inode_address(request.fid)
        if self._store.get(key) is None:
            metadentry.decode(request.record)
            self._store.put(key, request.record)
            self._writers.file_came(request.fid, key)
        return Empty()

    # --- link, at the owner of the inode address

    def link(self, session: Session, request: LinkRequest) -> Coroutine[Any, Any, RecordReply]:
        if self._guards.active:
            self._guards.check_change(paths.inode_address(request.fid))
        self._hold_inode(request.fid, (session.client_id, session.seq))
        return self._link(session.client_id, session.seq, request)

    def _hold_inode(self, fid: int, request: tuple[bytes, int]) -> None:
        """So that who repeats a LINK after a restart waits until its first execution is finished."""
        self._guards.hold_path(paths.inode_address(fid), "is getting one more name", request=request)

    def _lift_inode(self, fid: int) -> None:
        self._guards.lift_path(paths.inode_address(fid))

    async def _link(self, client_id: bytes, seq: int, request: LinkRequest) -> RecordReply:
        deadline_s = trio.current_time() + LOCK_WAIT_S
        while True:
            try:
                return await self._try_link(client_id, seq, request)
            except _EndFollowsError:
                raise
            except OSError as error:
                if error.errno != errno.EBUSY or trio.current_time() > deadline_s:
                    self._lift_inode(request.fid)
                    raise
            await trio.sleep(RETRY_FIRST_S * (1 + random.random()))

    async def _try_link(self, client_id: bytes, seq: int, request: LinkRequest) -> RecordReply:
        # no await between here and the commit
        key = paths.inode_address(request.fid)
        record = self._store.get(key)
        if record is None:
            raise os_error(errno.ENOENT, f"file {request.fid:x} has lost its last name")
        entry = metadentry.decode(record)
        self._room.take_record(len(request.path))
        if entry.nlink >= LINKS_MAX:
            raise os_error(errno.EMLINK, f"file {request.fid:x} has {entry.nlink} names")
        link = metadentry.encode(entry.link())
        intent = Intent(intents.new_name(), _LINK, _BEGUN, [client_id, seq, *request, link])
        entry = entry.changed(nlink=entry.nlink + 1, ctime_ns=request.now_ns)
        self._store.put(key, metadentry.encode(entry))
        self._note(intent)
        try:
            await self._adopt_link(intent)
        except TimeoutError as error:
            raise self._end_link_later(intent, error) from None
        except OSError:
            try:
                self._undo_link(intent)
            except OSError as error:
                raise self._end_link_later(intent, error) from None
            raise
        try:
            return self._linked(intent)
        except OSError as error:
            raise self._end_link_later(intent, error) from None

    def _end_link_later(self, intent: Intent, error: OSError) -> OSError:
        """Go on in the background; what to raise instead of *error*."""
        self._later(intent, self._finish_link)
        return _EndFollowsError(error.errno, error.strerror)

    async def _adopt_link(self, intent: Intent) -> None:
        client_id, _, _, path, parent_fid, now_ns, link = intent.fields
        request = AdoptRequest(intent.name, path, link, parent_fid, RENAME_NOREPLACE, 0, client_id, now_ns, b"")
        await self._peers.call(self._distributor.path_owner(path), ADOPT, request)

    async def _finish_link(self, intent: Intent) -> bool:
        """Have the new name's owner say whether it has the name, then act on it."""
        try:
            await self._adopt_link(intent)
        except TimeoutError:
            return False
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            _log.info("a link to file %x does not happen: %s", intent.fields[2], error.strerror)
            self._undo_link(intent)
            self._lift_inode(intent.fields[2])
            return True
        self._linked(intent)
        return True

    def _linked(self, intent: Intent) -> RecordReply:
        client_id, seq, fid, path, _, _, link = intent.fields
        # Another node may have removed all names by now.
        reply = RecordReply(self._store.get(paths.inode_address(fid)) or link)
        # no await between here and the commit: the reply and the state that says so are one
        self._sessions.answer(client_id, seq, LINK, reply)
        try:
            self._note(intent._replace(state=_DONE))
        except OSError:
            self._sessions.unanswer(client_id, seq)
            raise
        self._lift_inode(fid)
        self._later(intent, partial(self._forget_at, self._distributor.path_owner(path)))
        return reply

    def _undo_link(self, intent: Intent) -> None:
        """The name did not appear."""
        client_id, _, fid, _, _, now_ns, _ = intent.fields
        # no await between here and the commit
        self._count_down(fid, client_id, 0, now_ns)
        self._forget(intent)

    # --- unlink, at the owner of a name

    async def unlink(self, client_id: bytes, seq: int, request: UnlinkRequest) -> UnlinkReply:
        """UNLINK of a name that is a link; its caller has just seen that it is."""
        # no await between here and the commit
        path = request.path
        if self._guards.active:
            self._guards.check_change(path)
        record = self._records.at(path)
        if not metadentry.is_link_record(record):
            raise Blocked(_lifted())  # another request was faster: look again
        entry = metadentry.decode(record)
        reply = UnlinkReply(entry.fid, False)
        self._store.delete(paths.key(path))
        self._store.count_entry(entry.mode, -1)
        intent = self.note_drop(entry.fid, client_id, request.open_fid, request.now_ns)
        self._sessions.answer(client_id, seq, UNLINK, reply)
        try:
            self._store.commit()
        except OSError:
            self._sessions.unanswer(client_id, seq)
            raise
        await self.drop(intent)
        return reply

    def note_drop(self, fid: int, client_id: bytes, open_fid: int, now_ns: int) -> Intent:
        """A name of *fid* goes with the next commit; then call `drop`."""
        intent = Intent(intents.new_name(), _DROP, _BEGUN, [fid, client_id, open_fid, now_ns])
        intents.put(self._store, intent)
        return intent

    async def drop(self, intent: Intent) -> None:
        """Lower the count; in the background when its owner does not answer."""
        try:
            await self._finish_drop(intent)
        except OSError as error:
            _log.info("link count of file %x: %s", intent.fields[0], error.strerror)
            self._later(intent, self._finish_drop)

    async def _finish_drop(self, intent: Intent) -> bool:
        fid, client_id, open_fid, now_ns = intent.fields
        owner = self._inode_owner(fid)
        await self._peers.call(owner, DROP_LINK, DropLinkRequest(intent.name, fid, client_id, open_fid, now_ns))
        self._note(intent._replace(state=_DONE))
        self._later(intent, partial(self._forget_at, owner))
        return True

    def drop_link(self, session: Session, request: DropLinkRequest) -> Empty:
        # no await between here and the commit of the batch: the count and the note that says so are one
        done = keys.adopted(request.intent)
        if self._store.get(done) is None:
            self._count_down(request.fid, request.client_id, request.open_fid, request.now_ns)
            self._store.put(done, _NO_ANSWER)
        return Empty()

    # --- shared steps

    def _inode_owner(self, fid: int) -> int:
        return self._distributor.path_owner(paths.inode_address(fid))

    def _count_down(self, fid: int, client_id: bytes, open_fid: int, now_ns: int) -> None:
        key = paths.inode_address(fid)
        record = self._store.get(key)
        if record is None:
            _log.error("file %x loses a name, but has no record", fid)
            return
        entry = metadentry.decode(record)
        entry = entry.changed(nlink=entry.nlink - 1, ctime_ns=max(entry.ctime_ns, now_ns))
        if entry.nlink > 0:
            self._store.put(key, metadentry.encode(entry))
        else:
            self._store.delete(key)
            self._opens.discard(client_id, entry, open_fid, now_ns)

    async def _forget_at(self, owner: int, intent: Intent) -> bool:
        """Have *owner* forget its answer, then forget the intent."""
        await self._peers.call(owner, FORGET_INTENT, ForgetIntentRequest(intent.name))
        self._forget(intent)
        return True

    def _note(self, intent: Intent) -> None:
        """Store the state, with whatever else is to be committed. Raises OSError."""
        intents.put(self._store, intent)
        self._store.commit()

    def _forget(self, intent: Intent) -> None:
        intents.delete(self._store, intent.name)
        self._store.commit()

    def _later(self, intent: Intent, end: Callable[[Intent], Awaitable[bool]]) -> None:
        """Reach *end* in the background, however long it takes."""
        self._nursery.start_soon(persist, intent.kind, partial(end, intent))

    # --- after a restart

    def resume(self) -> None:
        """Go on with what an earlier run has begun."""
        for intent in intents.load(self._store, _DETACH):
            self._guards.hold_path(intent.fields[0], "is getting a second name")
            self._later(intent, self._finish_detach)
        for intent in intents.load(self._store, _LINK):
            client_id, seq, fid, path, *_ = intent.fields
            if intent.state == _BEGUN:
                self._hold_inode(fid, (client_id, seq))
                self._later(intent, self._finish_link)
            else:
                self._later(intent, partial(self._forget_at, self._distributor.path_owner(path)))
        for intent in intents.load(self._store, _DROP):
            owner = self._inode_owner(intent.fields[0])
            end = self._finish_drop if intent.state == _BEGUN else partial(self._forget_at, owner)
            self._later(intent, end)


class _EndFollowsError(OSError):
    """What happened to the new name is decided in the background."""


def _lifted() -> Guard:
    guard = Guard("the name was changed by another request")
    guard.lifted.set()
    return guard
