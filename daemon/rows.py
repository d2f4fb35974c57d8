"""What the table of handlers holds for one operation, and how its outcomes become those the caller may see.

Both ways to a daemon, messages (`dispatch`) and calls within its process (`local`), go through here, so that they
have the same outcomes.
"""

import errno
import logging
import re
import struct
from collections.abc import Callable, Coroutine
from operator import itemgetter
from typing import Any, Final

import trio

from gkfs import metadentry, paths
from gkfs.daemon import intents
from gkfs.daemon.guards import Blocked, Guard
from gkfs.daemon.session import Session
from gkfs.daemon.store import MetadataStore
from gkfs.errors import COMMON_ERRNOS, os_error
from gkfs.limits import LOCK_WAIT_S
from gkfs.messages import Buffer
from gkfs.operations import RENAME, TREE, Operation, Q, R

_log = logging.getLogger(__name__)

Handler = Callable[[Session, Q], R | Coroutine[Any, Any, R]]

# One pass in C over what is nearly always right; what it refuses is looked at by paths.check_path, which says why.
_PLAIN_PATH: Final = re.compile(rb"(?:/(?!\.{1,2}(?:/|\Z))[^/\0]{1,255})+")
_PATH_OR_ADDRESS: Final = re.compile(_PLAIN_PATH.pattern + rb"|\x09[0-9a-f]{16}")
_PLAIN_PATH_MAX_BYTES: Final = 4096


# Which numbers a field may have, as `struct` says it; all others are unsigned, of 64 bits. As in records.
_RANGES: Final = {"mode": "I", "uid": "I", "gid": "I", "flags": "I", "which": "I", "subdirectories": "i"}


def _range_of(field: str) -> str:
    return "q" if field.endswith("_ns") else _RANGES.get(field, "Q")


def _check_intent(name: bytes) -> None:
    if len(name) != intents.NAME_BYTES:
        raise os_error(errno.EINVAL, f"an intent of {len(name)} bytes")


def _check_record(record: bytes) -> None:
    try:
        metadentry.decode(record)
    except ValueError as error:
        raise os_error(errno.EINVAL, str(error)) from None


def _check_records(records: list[bytes]) -> None:
    for record in records:
        _check_record(record)


# What only daemons send each other, by the names of fields.
_PEERS_CHECKS: Final[dict[str, Callable[[Any], None]]] = {
    "intent": _check_intent,
    "record": _check_record,
    "records": _check_records,
}


class Row:
    """An operation with what is needed to execute it."""

    __slots__ = (
        "_number",
        "_numbers",
        "_peers_checks",
        "_ranges",
        "handler",
        "once",
        "operation",
        "path_fields",
        "plain",
        "reply",
        "role",
    )

    def __init__(self, operation: Operation[Any, Any], handler: Handler[Any, Any]) -> None:
        self.operation = operation
        self.handler = handler
        self.reply = operation.reply
        self.once = not operation.idempotent
        self.role = operation.role
        names = {"path", "source", "target"} if operation in (RENAME, TREE) else {"path"}
        fields = operation.request._fields
        self.plain = _PATH_OR_ADDRESS if operation.by_inode else _PLAIN_PATH
        self.path_fields = tuple(index for index, name in enumerate(fields) if name in names)
        numbers = [index for index, kind in enumerate(operation.request_types) if kind is int]
        self._numbers = itemgetter(*numbers) if len(numbers) > 1 else None
        self._number = numbers[0] if len(numbers) == 1 else None
        self._ranges = struct.Struct("<" + "".join(_range_of(fields[index]) for index in numbers))
        self._peers_checks = tuple(
            (index, _PEERS_CHECKS[name]) for index, name in enumerate(fields) if name in _PEERS_CHECKS
        )

    def check(self, request: tuple[Any, ...]) -> None:
        """Raise an OSError, or a struct.error for `outcome`, unless all fields have values that may be.

        Handlers check first and write then; a number that fits no record would show in between.
        """
        if self._numbers is not None:
            self._ranges.pack(*self._numbers(request))
        elif self._number is not None:
            self._ranges.pack(request[self._number])
        if self.path_fields:
            self.check_paths(request)
        for index, check in self._peers_checks:
            check(request[index])

    def check_paths(self, request: tuple[Any, ...]) -> None:
        """Raise OSError unless the paths in *request* are canonical."""
        for index in self.path_fields:
            path = request[index]
            if self.plain.fullmatch(path) is None or len(path) > _PLAIN_PATH_MAX_BYTES:
                paths.check_path(path)

    def outcome(self, error: Exception) -> tuple[int, str]:
        """Errno and text by which the caller learns of *error*. What it may not see is logged and becomes EIO."""
        operation = self.operation
        if isinstance(error, OSError) and error.errno is not None:
            number = error.errno
            text = error.strerror or str(error)
        elif isinstance(error, MemoryError) or "can't start new thread" in str(error):
            number, text = errno.ENOMEM, f"Cannot allocate memory: {operation.name}"
            _log.warning("%s: %s", operation.name, error or "no memory")
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
        return number, text


class Answered(Exception):
    """The request was a repeat: what blocked it was its first execution, begun before a restart."""

    def __init__(self, pieces: list[Buffer]) -> None:
        super().__init__()
        self.pieces = pieces


async def finished(
    row: Row, session: Session, seq: int, request: Any, task: Coroutine[Any, Any, Any], store: MetadataStore
) -> Any:
    """What *task* returns, which the handler has made; as `retry` if it is blocked."""
    try:
        return await task
    except Blocked as blocked:
        guard = blocked.guard
    return await retry(row, session, seq, request, guard, store)


async def retry(row: Row, session: Session, seq: int, request: Any, guard: Guard, store: MetadataStore) -> Any:
    """Run the handler again, each time after what it was blocked by is lifted.

    Raises OSError when it was still blocked after `LOCK_WAIT_S`: EBUSY, or ETIMEDOUT where it was by its own first
    execution, which may still succeed; Answered when it need not run any more.
    """
    deadline_s = trio.current_time() + LOCK_WAIT_S
    while True:
        if not session.is_over:
            with trio.CancelScope(deadline=deadline_s) as scope:
                session.waits[scope] = None
                try:
                    await guard.lifted.wait()
                finally:
                    del session.waits[scope]
        if session.is_over or not guard.lifted.is_set():
            number = errno.ETIMEDOUT if guard.request == (session.client_id, seq) else errno.EBUSY
            raise os_error(number, guard.reason)
        if row.once and seq in session.replies:
            raise Answered(session.replies[seq])
        session.seq = seq
        try:
            # no await between here and the return when the handler is synchronous: the caller commits
            result = row.handler(session, request)
            if isinstance(result, Coroutine):
                store.commit_begun()
                result = await result
            return result
        except Blocked as blocked:
            guard = blocked.guard
