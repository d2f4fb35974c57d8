"""Dispatch: from messages to handlers, and from outcomes to replies.

A handler is a function of (session, request). It returns its reply at once, or a coroutine when it needs other
daemons or a thread; that runs as a task of its own. All requests of one received batch are executed one after
another, then committed together, then answered together.

Rules for handlers: a synchronous one checks first and writes then, so that a failure leaves nothing in the
store's overlay; it raises `Blocked` only before it has changed anything. A coroutine commits before each await
and takes what it knew of the store as outdated after it.

Outcomes are `OSError`. Errnos that the operation declares, and the common ones, go out as they are; anything
else is our mistake: it is logged with its traceback and becomes EIO (`rows.Row.outcome`).
"""

import errno
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NoReturn, cast

import trio

from gkfs import wire
from gkfs.daemon.guards import Blocked
from gkfs.daemon.mirror import Mirror, Target
from gkfs.daemon.rows import Answered, Handler, Row, finished, retry
from gkfs.daemon.session import Session
from gkfs.daemon.store import MetadataStore
from gkfs.errors import ProtocolError, os_error
from gkfs.messages import Buffer
from gkfs.operations import HELLO, READS, TABLE, Operation, Q, R

if TYPE_CHECKING:
    from gkfs.daemon.connection import Connection

_log = logging.getLogger(__name__)

# Who keeps copies must not wait for others who do; `gkfs status` and `stop` must see what waits.
_NEVER_HELD = ("copy", "control")


class Dispatcher:
    """The handlers of one daemon, by operation code. *requests* and *batches* count what was executed."""

    def __init__(self, store: MetadataStore, nursery: trio.Nursery, mirror: Mirror | None = None) -> None:
        """With *mirror* replies leave when that has what they tell of."""
        self._store = store
        self.mirror = mirror
        self._nursery = nursery
        self.rows: dict[int, Row] = {}
        self.requests = 0
        self.batches = 0
        self._tasks = 0  # requests being executed by tasks
        self._idle = trio.Event()

    def serve(self, operation: Operation[Q, R], handler: Handler[Q, R]) -> None:
        """Have *handler* execute *operation*; one operation has one handler."""
        if operation.code in self.rows:
            raise ValueError(f"operation {operation.name} is served twice")
        self.rows[operation.code] = Row(operation, handler)

    def close(self) -> None:
        """The daemon has ended; who still asks from within its process is told so."""
        self.mirror = None  # nothing holds up what it says
        for row in self.rows.values():
            row.handler = _gone

    def check_complete(self) -> None:
        """Raise ValueError when an operation of the table has no handler."""
        optional = [HELLO.code, *(code for code, row in TABLE.items() if row.role == "copy")]
        missing = [row.name for code, row in TABLE.items() if code not in self.rows and code not in optional]
        if missing:
            raise ValueError(f"operations without handler: {', '.join(missing)}")

    def execute(self, connection: "Connection", messages: list[wire.Message]) -> None:
        """Execute a batch and hand its replies to *connection*. Raises ProtocolError after what came before it."""
        session = connection.session
        replies: list[Buffer] = []
        answered: list[int] = []  # of *messages*, those to remember
        fault: ProtocolError | None = None
        # no await between here and the commit: the batch is executed as one
        for message in messages:
            try:
                row = self.rows.get(message.code)
                if row is None or message.kind != wire.REQUEST:
                    raise ProtocolError(f"message of kind {message.kind} for operation {message.code}")
                if row.role and session.role != row.role:
                    raise ProtocolError(f"{row.operation.name}, which a {session.role} does not ask for")
                if row.once:
                    known = session.replies.get(message.seq)
                    if known is not None:
                        replies += known
                        continue
                    if message.seq in session.executing:
                        continue  # its task answers on the session's live connection
                request = wire.decode_request(row.operation, message)
                pieces = self._execute_one(row, connection, message, request)
            except ProtocolError as error:
                fault = error
                break
            except BaseException:
                self._store.rollback()
                for seq in answered:
                    session.forget(seq)
                raise
            if pieces is None:
                continue
            replies += pieces
            if row.once:
                session.remember(message.seq, pieces)
                answered.append(message.seq)
        self.requests += len(messages)
        self.batches += 1
        self._finish_batch(connection, messages, replies, answered)
        if fault is not None:
            raise fault

    def _execute_one(
        self, row: Row, connection: "Connection", message: wire.Message, request: Any
    ) -> list[Buffer] | None:
        """The encoded reply, or None when a task was started that will send it."""
        try:
            row.check(request)
            connection.session.seq = message.seq
            reply = row.handler(connection.session, request)
            if type(reply) is row.reply:
                return wire.encode_reply(row.operation, message.seq, cast(Any, reply))
            task = cast(Coroutine[Any, Any, Any], reply)
        except Blocked as blocked:
            task = retry(row, connection.session, message.seq, request, blocked.guard, self._store)
        except Exception as error:
            return _encode_error(row, message.seq, error)
        if row.once:
            connection.session.executing.add(message.seq)
        self.task_begins()
        connection.session.task_begins()
        size_bytes = len(message.bulk) + (request.length if row.operation.code in READS else 0)
        connection.task_begins(size_bytes)
        self._nursery.start_soon(self._run_task, row, connection, message.seq, request, task, size_bytes)
        return None

    def _finish_batch(
        self, connection: "Connection", messages: list[wire.Message], replies: list[Buffer], answered: list[int]
    ) -> None:
        waits_for_disk = False
        if self._store.dirty:
            waits_for_disk = self._store.syncs_commits
            if answered:
                connection.session.store_replies(self._store, answered)
            try:
                if waits_for_disk:
                    self._store.commit_unsynced()
                else:
                    self._store.commit()
            except OSError as error:
                waits_for_disk = False
                # Nothing of the batch has happened; what tasks work on is theirs to answer.
                session = connection.session
                for seq in answered:
                    session.forget(seq)
                failed = [m for m in messages if m.code in self.rows and m.seq not in session.executing]
                replies = [piece for m in failed for piece in _encode_error(self.rows[m.code], m.seq, error)]
        if not waits_for_disk:
            self._send(connection, connection.session, replies)
            return
        self.task_begins()
        self._nursery.start_soon(self._send_synced, connection, messages, replies, answered)

    async def _send_synced(
        self, connection: "Connection", messages: list[wire.Message], replies: list[Buffer], answered: list[int]
    ) -> None:
        """Answer a batch once what it changed is on the disk; others are executed meanwhile."""
        session = connection.session
        try:
            await self._store.synced()
        except OSError as error:
            replies = []
            for message in [m for m in messages if m.code in self.rows and m.seq not in session.executing]:
                pieces = _encode_error(self.rows[message.code], message.seq, error)
                replies += pieces
                if message.seq in answered:
                    session.remember(message.seq, pieces)
        finally:
            self.task_ends()
        self._send(connection, session, replies)

    def _send(self, target: Target, session: Session, pieces: list[Buffer]) -> None:
        if self.mirror is None or session.role in _NEVER_HELD:
            target.send(pieces)
        else:
            self.mirror.send(target, pieces)

    async def _run_task(
        self,
        row: Row,
        connection: "Connection",
        seq: int,
        request: Any,
        task: Coroutine[Any, Any, Any],
        size_bytes: int,
    ) -> None:
        session = connection.session
        try:
            pieces = await self._outcome(row, session, seq, request, task)
        finally:
            self.task_ends()
            connection.task_ends(size_bytes)
            session.task_ends()
            session.executing.discard(seq)
        # The client may be on another connection by now, and have repeated the request there.
        target = session.connection if row.once else connection
        if target is not None:
            self._send(target, session, pieces)

    async def _outcome(
        self, row: Row, session: Session, seq: int, request: Any, task: Coroutine[Any, Any, Any]
    ) -> list[Buffer]:
        try:
            reply = await finished(row, session, seq, request, task, self._store)
            if row.once and seq in session.replies:
                return session.replies[seq]  # stored with the step that decided it
            pieces = wire.encode_reply(row.operation, seq, reply)
            if row.once:
                session.remember(seq, pieces)
                session.store_replies(self._store, [seq])
            self._store.commit()
        except Answered as answered:
            return answered.pieces
        except Exception as error:
            self._store.rollback()
            pieces = _encode_error(row, seq, error)
            if row.once:
                session.remember(seq, pieces)
        return pieces

    def task_begins(self) -> None:
        """A task executes a request from now on; `task_ends` must follow."""
        self._tasks += 1

    def task_ends(self) -> None:
        self._tasks -= 1
        if not self._tasks:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until no task is executing a request."""
        while self._tasks:
            self._idle = trio.Event()
            await self._idle.wait()

    async def call(self, session: Session, operation: Operation[Q, R], request: Q) -> R:
        """Execute a request of this daemon to itself and commit. Raises OSError, also when blocked too long."""
        row = self.rows[operation.code]
        try:
            # no await between here and the commit of what a synchronous handler did
            try:
                result = row.handler(session, request)
            except Blocked as blocked:
                result = retry(row, session, 0, request, blocked.guard, self._store)
            if isinstance(result, Coroutine):
                self._store.commit_begun()
                result = await finished(row, session, 0, request, result, self._store)
            self._store.commit()
        except OSError:
            self._store.rollback()
            raise
        except Exception as error:
            self._store.rollback()
            _log.error("%s failed unexpectedly", operation.name, exc_info=error)
            raise os_error(errno.EIO, f"{operation.name}: {error!r}") from error
        return cast(R, result)


def _encode_error(row: Row, seq: int, error: Exception) -> list[Buffer]:
    """The reply that says what went wrong."""
    return wire.encode_error(row.operation.code, seq, *row.outcome(error))


def _gone(*_: object) -> NoReturn:
    raise os_error(errno.ETIMEDOUT, "the daemon in this process has ended")
