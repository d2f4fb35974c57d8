"""Dispatch: from messages to handlers, and from outcomes to replies.

A handler is a function of (session, request). It returns its reply at once, or a coroutine when it needs other
daemons or a thread; that runs as a task of its own. All requests of one received batch are executed one after
another, then committed together, then answered together.

Rules for handlers: a synchronous one checks first and writes then, so that a failure leaves nothing in the
store's overlay; it raises `Blocked` only before it has changed anything. A coroutine commits before each await
and takes what it knew of the store as outdated after it.

Outcomes are `OSError`. Errnos that the operation declares, and the common ones, go out as they are; anything
else is our mistake: it is logged with its traceback and becomes EIO.
"""

import errno
import inspect
import logging
import re
import struct
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from gkfs import paths, wire
from gkfs.daemon.guards import Blocked, Guard
from gkfs.daemon.session import Session
from gkfs.daemon.store import MetadataStore
from gkfs.errors import COMMON_ERRNOS, ProtocolError, os_error
from gkfs.limits import LOCK_WAIT_S
from gkfs.messages import Buffer
from gkfs.operations import HELLO, RENAME, TABLE, TREE, Operation, Q, R

if TYPE_CHECKING:
    from gkfs.daemon.connection import Connection

_log = logging.getLogger(__name__)

Handler = Callable[[Session, Q], R | Coroutine[Any, Any, R]]

# One pass in C over what is nearly always right; what it refuses is looked at by paths.check_path, which says why.
_PLAIN_PATH: Final = re.compile(rb"(?:/(?!\.{1,2}(?:/|\Z))[^/\0]{1,255})+")
_PATH_OR_ADDRESS: Final = re.compile(_PLAIN_PATH.pattern + rb"|\x09[0-9a-f]{16}")
_PLAIN_PATH_MAX_BYTES: Final = 4096


class Dispatcher:
    """The handlers of one daemon. *requests* and *batches* count what was executed."""

    def __init__(self, store: MetadataStore, nursery: trio.Nursery) -> None:
        self._store = store
        self._nursery = nursery
        self._rows: dict[int, _Row] = {}
        self.requests = 0
        self.batches = 0
        self._tasks = 0  # requests being executed by tasks
        self._idle = trio.Event()

    def serve(self, operation: Operation[Q, R], handler: Handler[Q, R]) -> None:
        """Have *handler* execute *operation*; one operation has one handler."""
        if operation.code in self._rows:
            raise ValueError(f"operation {operation.name} is served twice")
        self._rows[operation.code] = _Row(operation, handler)

    def check_complete(self) -> None:
        """Raise ValueError when an operation of the table has no handler."""
        missing = [row.name for code, row in TABLE.items() if code not in self._rows and row is not HELLO]
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
                row = self._rows.get(message.code)
                if row is None or message.kind != wire.REQUEST:
                    raise ProtocolError(f"message of kind {message.kind} for operation {message.code}")
                if row.once:
                    known = session.replies.get(message.seq)
                    if known is not None:
                        replies += known
                        continue
                    if message.seq in session.executing:
                        continue  # its task answers on the session's live connection
                request = wire.decode_request(row.operation, row.types, message)
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
        self, row: "_Row", connection: "Connection", message: wire.Message, request: Any
    ) -> list[Buffer] | None:
        """The encoded reply, or None when a task was started that will send it."""
        try:
            if row.path_fields:
                row.check_paths(request)
            connection.session.seq = message.seq
            reply = row.handler(connection.session, request)
            if type(reply) is row.reply:
                return wire.encode_reply(row.operation, message.seq, cast(Any, reply))
            task = cast(Coroutine[Any, Any, Any], reply)
        except Blocked as blocked:
            task = _retry(row, connection.session, message.seq, request, blocked.guard)
        except Exception as error:
            return row.encode_error(message.seq, error)
        if row.once:
            connection.session.executing.add(message.seq)
        self._tasks += 1
        connection.tasks_bytes += len(message.bulk)
        self._nursery.start_soon(self._run_task, row, connection, message, request, task)
        return None

    def _finish_batch(
        self, connection: "Connection", messages: list[wire.Message], replies: list[Buffer], answered: list[int]
    ) -> None:
        if self._store.dirty:
            if answered:
                connection.session.store_replies(self._store, answered, task=False)
            try:
                self._store.commit()
            except OSError as error:
                # Nothing of the batch has happened; what tasks work on is theirs to answer.
                session = connection.session
                for seq in answered:
                    session.forget(seq)
                failed = [m for m in messages if m.code in self._rows and m.seq not in session.executing]
                replies = [piece for m in failed for piece in self._rows[m.code].encode_error(m.seq, error)]
        connection.send(replies)

    async def _run_task(
        self,
        row: "_Row",
        connection: "Connection",
        message: wire.Message,
        request: Any,
        task: Coroutine[Any, Any, Any],
    ) -> None:
        session, seq = connection.session, message.seq
        try:
            pieces = await self._outcome(row, session, seq, request, task)
        finally:
            self._tasks -= 1
            if not self._tasks:
                self._idle.set()
            connection.task_done(len(message.bulk))
            session.executing.discard(seq)
        # The client may be on another connection by now, and have repeated the request there.
        target = session.connection if row.once else connection
        if target is not None:
            target.send(pieces)

    async def _outcome(
        self, row: "_Row", session: Session, seq: int, request: Any, task: Coroutine[Any, Any, Any]
    ) -> list[Buffer]:
        try:
            try:
                reply = await task
            except Blocked as blocked:
                reply = await _retry(row, session, seq, request, blocked.guard)
            if row.once and seq in session.replies:
                return session.replies[seq]  # stored with the step that decided it
            pieces = wire.encode_reply(row.operation, seq, reply)
            if row.once:
                session.remember(seq, pieces)
                session.store_replies(self._store, [seq], task=True)
            self._store.commit()
        except _Answered as answered:
            return answered.pieces
        except Exception as error:
            self._store.rollback()
            pieces = row.encode_error(seq, error)
            if row.once:
                session.remember(seq, pieces)
        return pieces

    async def idle(self) -> None:
        """Wait until no task is executing a request."""
        while self._tasks:
            self._idle = trio.Event()
            await self._idle.wait()

    async def call(self, session: Session, operation: Operation[Q, R], request: Q) -> R:
        """Execute a request of this daemon to itself and commit. Raises OSError, also when blocked too long."""
        row = self._rows[operation.code]
        try:
            try:
                # no await between here and the commit of what a synchronous handler did
                result = row.handler(session, request)
                if inspect.iscoroutine(result):
                    result = await result
            except Blocked as blocked:
                result = await _retry(row, session, 0, request, blocked.guard)
            self._store.commit()
        except OSError:
            self._store.rollback()
            raise
        except Exception as error:
            self._store.rollback()
            _log.error("%s failed unexpectedly", operation.name, exc_info=error)
            raise os_error(errno.EIO, f"{operation.name}: {error!r}") from error
        return cast(R, result)


class _Row:
    """An operation with what is needed to execute it."""

    __slots__ = ("handler", "once", "operation", "path_fields", "plain", "reply", "types")

    def __init__(self, operation: Operation[Any, Any], handler: Handler[Any, Any]) -> None:
        self.operation = operation
        self.handler = handler
        self.types = operation.field_types()
        self.reply = operation.reply
        self.once = not operation.idempotent
        names = {"path", "source", "target"} if operation in (RENAME, TREE) else {"path"}
        fields = operation.request._fields
        self.plain = _PATH_OR_ADDRESS if operation.by_inode else _PLAIN_PATH
        self.path_fields = tuple(index for index, name in enumerate(fields) if name in names)

    def check_paths(self, request: tuple[Any, ...]) -> None:
        """Raise OSError unless the paths in *request* are canonical."""
        for index in self.path_fields:
            path = request[index]
            if self.plain.fullmatch(path) is None or len(path) > _PLAIN_PATH_MAX_BYTES:
                paths.check_path(path)

    def encode_error(self, seq: int, error: Exception) -> list[Buffer]:
        """The reply that says what went wrong."""
        operation = self.operation
        if isinstance(error, OSError) and error.errno is not None:
            number = error.errno
            text = error.strerror or str(error)
        elif isinstance(error, (struct.error, OverflowError)):
            number, text = errno.EINVAL, f"Invalid argument: {operation.name}: {error}"
        else:
            number, text = 0, ""
        if number not in operation.errnos and number not in COMMON_ERRNOS:
            if number in (errno.ENAMETOOLONG, errno.EBUSY):
                # From checks that come before every handler, so that not every row lists them.
                number = errno.EINVAL if number == errno.ENAMETOOLONG else errno.ETIMEDOUT
            else:
                _log.error("%s failed unexpectedly", operation.name, exc_info=error)
                number, text = errno.EIO, f"Input/output error: {operation.name}: {error!r}"
        return wire.encode_error(operation.code, seq, number, text)


class _Answered(Exception):
    """The request was a repeat: what blocked it was its first execution, begun before a restart."""

    def __init__(self, pieces: list[Buffer]) -> None:
        super().__init__()
        self.pieces = pieces


async def _retry(row: _Row, session: Session, seq: int, request: Any, guard: Guard) -> Any:
    """Run the handler again, each time after what it was blocked by is lifted.

    Raises OSError (EBUSY) when it was still blocked after `LOCK_WAIT_S`; _Answered when it need not run any more.
    """
    deadline_s = trio.current_time() + LOCK_WAIT_S
    while True:
        with trio.move_on_at(deadline_s):
            await guard.lifted.wait()
        if not guard.lifted.is_set():
            raise os_error(errno.EBUSY, guard.reason)
        if row.once and seq in session.replies:
            raise _Answered(session.replies[seq])
        session.seq = seq
        try:
            # no await between here and the return when the handler is synchronous: the caller commits
            result = row.handler(session, request)
            return await cast(Awaitable[Any], result) if inspect.iscoroutine(result) else result
        except Blocked as blocked:
            guard = blocked.guard
