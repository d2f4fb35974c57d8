"""Sessions: what the daemon remembers of each client, so that a repeated request is answered, not executed twice.

A session belongs to a client id (one mount, one peer's boot) and outlives its connections. For requests whose
repeat would have another outcome (CREATE, UNLINK, ...) it keeps the encoded replies of the last `DEDUP_WINDOW`
sequence numbers; a client never has more than half as many in flight, so what it repeats is still here.

A daemon that dies may have committed requests whose replies did not arrive: the replies of each batch are
therefore committed with it, under a key of their own. The latest `IN_FLIGHT_MAX` of a client are kept, which may
all have been under way when its connection broke, before or because the daemon died; then keys are used again.
Requests that involve other daemons store their reply with the step that decides them (`Sessions.answer`), also
when a restart takes that step.
"""

import logging
import math
from collections import deque
from typing import Any, Protocol

import msgpack
import trio

from gkfs import wire
from gkfs.daemon import keys
from gkfs.daemon.runs import Runs
from gkfs.daemon.store import MetadataStore
from gkfs.limits import (
    DEDUP_WINDOW,
    HOLDER_GONE_S,
    IN_FLIGHT_MAX,
    REPLIES_KEPT_BYTES,
    REPLY_OVERHEAD_BYTES,
    SESSION_MEMORY_S,
    SESSIONS_MAX,
)
from gkfs.messages import Buffer
from gkfs.operations import Operation, Q, R

_log = logging.getLogger(__name__)


class Link(Protocol):
    """How a client is connected."""

    def send(self, pieces: list[Buffer]) -> None:
        """Send encoded replies."""

    def supersede(self) -> None:
        """The same client has connected anew: nothing more that comes in here is executed."""


class ReplyBytes:
    """What the replies that are kept take, of all sessions of a daemon."""

    def __init__(self) -> None:
        self.size_bytes = 0


def _kept_bytes(pieces: list[Buffer]) -> int:
    return sum(map(len, pieces)) + REPLY_OVERHEAD_BYTES


class Session:
    """One client. *connection* is its live one; *last_seen_s* is when it last had one, on trio's clock."""

    def __init__(self, client_id: bytes, role: str, total: "ReplyBytes | None" = None) -> None:
        self.client_id = client_id
        self.role = role
        self.connection: Link | None = None
        self.last_seen_s = 0.0
        # Of the request whose handler is running; a coroutine must take it before its first await.
        self.seq = 0
        self.executing: set[int] = set()  # sequence numbers that tasks are working on
        self.tasks = 0  # that work on its requests
        self._idle = trio.Event()
        self.waits: dict[trio.CancelScope, None] = {}  # of those that are blocked
        self.is_over = False  # a later run of the daemon it is of has come
        self.replies: dict[int, list[Buffer]] = {}  # by sequence number
        self.replies_bytes = 0
        self._order: deque[int] = deque()  # of *replies*, oldest first; some are forgotten
        # What is stored of them: slot and number of replies, oldest first; and slots whose replies are too old.
        self._stored: deque[tuple[int, int]] = deque()
        self._stored_replies = 0
        self._free_slots: list[int] = []
        self._slots = 0  # ever used
        self._stored_last = 0  # number of the latest that was stored
        # Of all sessions, to be kept up to date; see `Sessions`.
        self.total: ReplyBytes = ReplyBytes() if total is None else total

    def end(self) -> bool:
        """Execute nothing more, give up what is blocked; whether something is still being executed."""
        self.is_over = True
        if self.connection is not None:
            self.connection.supersede()
        for scope in self.waits:
            scope.cancel()
        return self.tasks > 0

    async def idle(self) -> None:
        """Wait until nothing is being executed."""
        while self.tasks:
            self._idle = trio.Event()
            await self._idle.wait()

    def task_begins(self) -> None:
        """A task works on a request; `task_ends` must follow."""
        self.tasks += 1

    def task_ends(self) -> None:
        self.tasks -= 1
        if not self.tasks:
            self._idle.set()

    def remember(self, seq: int, pieces: list[Buffer]) -> None:
        """Keep the encoded reply to request *seq*."""
        if seq not in self.replies:
            self._order.append(seq)
        else:
            self.forget(seq)
        self.replies[seq] = pieces
        self._count(_kept_bytes(pieces))
        if len(self._order) > DEDUP_WINDOW:
            self.forget(self._order.popleft())

    def forget(self, seq: int) -> None:
        """Drop the reply to *seq*: its batch was not committed, or there are newer ones."""
        pieces = self.replies.pop(seq, None)
        if pieces is not None:
            self._count(-_kept_bytes(pieces))

    def forget_older_half(self) -> None:
        """Drop half of the replies, to make room."""
        for _ in range(-(-len(self._order) // 2)):
            self.forget(self._order.popleft())

    def _count(self, more_bytes: int) -> None:
        self.replies_bytes += more_bytes
        self.total.size_bytes += more_bytes

    def store_replies(self, store: MetadataStore, seqs: list[int]) -> None:
        """Put the replies to *seqs* into *store*, to be committed with what they answer."""
        while self._stored and self._stored_replies - self._stored[0][1] >= IN_FLIGHT_MAX:
            slot, count = self._stored.popleft()
            self._stored_replies -= count
            self._free_slots.append(slot)
        slot = self._free_slots.pop() if self._free_slots else self._slots
        self._note_stored(slot, len(seqs), self._stored_last + 1)
        replies = [(seq, b"".join(self.replies[seq])) for seq in seqs]
        store.put(keys.replies(self.client_id, slot), msgpack.packb((self._stored_last, replies)))

    def load_replies(self, slot: int, number: int, replies: list[list[Any]]) -> None:
        """Take in what an earlier run has stored, pairs of a number and a reply, in the order of *number*."""
        for seq, reply in replies:
            self.remember(seq, [reply])
        self._note_stored(slot, len(replies), number)

    def _note_stored(self, slot: int, count: int, number: int) -> None:
        self._stored.append((slot, count))
        self._stored_replies += count
        self._slots = max(self._slots, slot + 1)
        self._stored_last = number


class Sessions:
    """All sessions of one daemon."""

    def __init__(self, store: MetadataStore) -> None:
        self.runs = Runs()
        self._store = store
        self._sessions: dict[bytes, Session] = {}
        self._clients: set[bytes] = set()  # mounts that are connected
        self._away: dict[bytes, float] = {}  # mounts whose connection broke, and when: they come back
        self._came_back_s = -math.inf  # when the last of them did
        self._total = ReplyBytes()
        self._load()

    def open(self, client_id: bytes, role: str) -> Session:
        """The session of *client_id*, new or known."""
        session = self._sessions.get(client_id)
        if session is None:
            session = self._sessions[client_id] = Session(client_id, role, self._total)
            if len(self._sessions) > SESSIONS_MAX:
                self._drop_oldest()
        session.role = role
        if role == "peer":
            self.runs.note(session)
        return session

    def answer(self, client_id: bytes, seq: int, operation: Operation[Q, R], reply: R) -> None:
        """Have the next commit store the reply to a request together with what it answers."""
        session = self._known(client_id)
        session.remember(seq, wire.encode_reply(operation, seq, reply))
        session.store_replies(self._store, [seq])

    def unanswer(self, client_id: bytes, seq: int) -> None:
        """Take `answer` back: the commit has failed."""
        self._known(client_id).forget(seq)

    def _known(self, client_id: bytes) -> Session:
        session = self._sessions.get(client_id)
        if session is None:
            session = self._sessions[client_id] = Session(client_id, "client", self._total)
            session.last_seen_s = trio.current_time()
        return session

    def expire(self) -> None:
        """Drop the sessions of clients that have been away for too long. Commits."""
        now_s = trio.current_time()
        for session in list(self._sessions.values()):
            if session.connection is None and now_s - session.last_seen_s > SESSION_MEMORY_S:
                self._drop(session)
        self._store.commit()

    def joined(self, session: Session) -> None:
        """*session* has a connection."""
        if session.role == "client":
            self._clients.add(session.client_id)
            if self._away.pop(session.client_id, None) is not None:
                self._came_back_s = trio.current_time()

    def left(self, session: Session, *, broke: bool = False) -> None:
        """*session* has no connection any more; *broke*: the peer has not closed it."""
        session.connection = None
        session.last_seen_s = trio.current_time()
        if session.client_id in self._clients:
            self._clients.discard(session.client_id)
            if broke:
                self._away[session.client_id] = session.last_seen_s

    def has_other_client(self, client_id: bytes) -> bool:
        """Whether a mount other than *client_id* is connected."""
        return len(self._clients) > (client_id in self._clients)

    def has_other_client_away(self, client_id: bytes) -> bool:
        """Whether the connection of a mount other than *client_id* broke, and it may still come back."""
        self._forget_away()
        return len(self._away) > (client_id in self._away)

    def all_there_since_s(self) -> float:
        """Since when no mount is away that may still come back; inf while one is."""
        self._forget_away()
        return math.inf if self._away else self._came_back_s

    def _forget_away(self) -> None:
        oldest_s = trio.current_time() - HOLDER_GONE_S
        for gone in [gone for gone, since_s in self._away.items() if since_s < oldest_s]:
            del self._away[gone]

    def connected(self) -> int:
        """How many sessions have a connection."""
        return sum(session.connection is not None for session in self._sessions.values())

    def _drop_oldest(self) -> None:
        idle = [session for session in self._sessions.values() if session.connection is None]
        if idle:
            self._drop(min(idle, key=lambda session: session.last_seen_s))
            self._store.commit_begun()  # who connects goes on to wait

    def trim(self) -> None:
        """Keep the replies of all together within `REPLIES_KEPT_BYTES`: who has most loses its oldest."""
        while self._total.size_bytes > REPLIES_KEPT_BYTES:
            largest = max(self._sessions.values(), key=lambda session: session.replies_bytes)
            _log.warning("a client has %d bytes of replies kept: the oldest go", largest.replies_bytes)
            largest.forget_older_half()

    def _drop(self, session: Session) -> None:
        del self._sessions[session.client_id]
        self._total.size_bytes -= session.replies_bytes
        session.total = ReplyBytes()  # for what tasks still add to it
        for page in self._store.pages(*keys.all_replies(session.client_id)):
            for key, _ in page:
                self._store.delete(key)

    def _load(self) -> None:
        now_s = trio.current_time()
        stored: dict[bytes, list[tuple[int, int, list[list[Any]]]]] = {}
        for page in self._store.pages(*keys.table(keys.REPLIES)):
            for key, value in page:
                client_id, slot = keys.client_and_slot(key)
                number, replies = msgpack.unpackb(value)
                stored.setdefault(client_id, []).append((number, slot, replies))
        for client_id, batches in stored.items():
            session = self._sessions[client_id] = Session(client_id, "client", self._total)
            session.last_seen_s = now_s
            for number, slot, replies in sorted(batches):
                session.load_replies(slot, number, replies)
