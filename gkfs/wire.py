"""The wire protocol, sans-IO: messages to bytes and bytes to messages. docs/wire_format.md has worked bytes.

A message is a header of 20 bytes, little-endian, a msgpack body, and bulk bytes beside it:

    body length u32 | bulk length u32 | seq u64 | operation u8 | kind u8 | errno u16

A batch is messages one after another: whatever waits for one peer when its socket is written leaves in one
send, and a receiver executes every whole message it has before it answers, again in one send.

`Decoder` owns the receive buffers. Bulk above `BULK_OWN_BUFFER_BYTES` is received straight into a buffer of its
own, which the message then owns; smaller bulk is copied out, so a message never aliases a reused buffer.
"""

import struct
from collections.abc import Callable, Iterable
from functools import partial
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any, Final, NamedTuple

import msgpack

from gkfs import metadentry
from gkfs.buffers import aligned
from gkfs.errors import ProtocolError
from gkfs.limits import (
    ARRAY_MAX,
    BULK_OWN_BUFFER_BYTES,
    DIRECT_IO_MIN_BYTES,
    MESSAGE_BODY_MAX_BYTES,
    MESSAGE_BULK_MAX_BYTES,
    RECEIVE_BUFFER_BYTES,
)
from gkfs.messages import Buffer
from gkfs.operations import ListField, Operation, Q, R

HEADER: Final = struct.Struct("<IIQBBH")
HEADER_BYTES: Final = HEADER.size

REQUEST: Final = 0
REPLY: Final = 1
NOTIFY: Final = 2  # from daemon to client, unasked; seq is 0

_NO_BULK: Final = bytearray()
_SHOWN: Final = 16  # types of fields in a message of what is wrong
_MAP_MAX: Final = 16  # in a HELLO of another version there may be some

_packb: Callable[[Any], bytes] = msgpack.Packer(use_bin_type=True, autoreset=True).pack
# Nothing that travels has maps or extension types; the bound of arrays keeps nested ones from taking memory and
# time out of proportion to their bytes.
_unpackb = partial(
    msgpack.unpackb, raw=False, strict_map_key=True, max_array_len=ARRAY_MAX, max_map_len=_MAP_MAX, max_ext_len=0
)


class Message(NamedTuple):
    """One decoded message; *fields* is the body's array, or for an error reply ``[text]``."""

    seq: int
    code: int
    kind: int
    errno: int
    fields: list[Any]
    bulk: Buffer


def encode_request(operation: Operation[Q, R], seq: int, request: Q) -> list[Buffer]:
    """The pieces to send for *request*: one, or two where file data travels beside it (not copied)."""
    if operation.bulk_request:
        return _with_bulk(operation.code, REQUEST, seq, request)
    body = _packb(request)
    return [HEADER.pack(len(body), 0, seq, operation.code, REQUEST, 0) + body]


def encode_reply(operation: Operation[Q, R], seq: int, reply: R) -> list[Buffer]:
    """The pieces to send for *reply*; the bulk piece is not copied and must stay unchanged until sent."""
    if operation.bulk_reply:
        return _with_bulk(operation.code, REPLY, seq, reply)
    body = _packb(reply)
    return [HEADER.pack(len(body), 0, seq, operation.code, REPLY, 0) + body]


def encode_error(code: int, seq: int, errno: int, text: str) -> list[Buffer]:
    """The message that answers request *seq* with *errno* and the facts in *text*."""
    body = _packb((text[:1000],))
    return [HEADER.pack(len(body), 0, seq, code, REPLY, errno) + body]


def _with_bulk(code: int, kind: int, seq: int, fields: tuple[Any, ...]) -> list[Buffer]:
    body = _packb(fields[:-1])
    bulk: Buffer = fields[-1]
    head = HEADER.pack(len(body), len(bulk), seq, code, kind, 0) + body
    if len(bulk) <= BULK_OWN_BUFFER_BYTES:
        return [head + bulk]  # one short copy is cheaper than one more piece in sendmsg
    return [head, bulk]


class Decoder:
    """Turns received bytes into messages.

    Use: receive into `buffer()`, then `received(n)` returns the messages that became whole. Raises ProtocolError
    at the first byte that cannot be right, before memory is taken for what it announces.
    """

    def __init__(self) -> None:
        # Most of it is never used: the system gives memory for what is, and a daemon has a thousand of them.
        self._buffer = mmap(-1, RECEIVE_BUFFER_BYTES, flags=MAP_PRIVATE | MAP_ANONYMOUS)
        self._view = memoryview(self._buffer)
        self._start = 0  # of the first message not yet returned
        self._end = 0  # of the bytes received
        # A message whose bulk is being received into its own buffer:
        self._pending: tuple[int, int, int, int, list[Any]] | None = None
        self._bulk: bytearray | memoryview = _NO_BULK
        self._bulk_filled = 0

    def buffer(self) -> memoryview:
        """Where the next bytes from the peer belong; never empty."""
        if self._pending is not None:
            return memoryview(self._bulk)[self._bulk_filled :]
        return self._view[self._end :]

    @property
    def is_within_message(self) -> bool:
        """Whether a message has begun that is not whole yet."""
        return self._pending is not None or self._end > self._start

    def received(self, count: int) -> list[Message]:
        """Take note of *count* bytes put into `buffer()`; returns the messages that are now whole, in order."""
        if self._pending is not None:
            self._bulk_filled += count
            if self._bulk_filled < len(self._bulk):
                return []
            seq, code, kind, errno, fields = self._pending
            self._pending = None
            return [Message(seq, code, kind, errno, fields, self._take_bulk())]
        self._end += count
        messages: list[Message] = []
        while self._end - self._start >= HEADER_BYTES and self._take_message(messages):
            pass
        self._compact()
        return messages

    def _take_message(self, messages: list[Message]) -> bool:
        start = self._start
        body_length, bulk_length, seq, code, kind, errno = HEADER.unpack_from(self._buffer, start)
        if body_length > MESSAGE_BODY_MAX_BYTES or bulk_length > MESSAGE_BULK_MAX_BYTES or kind > NOTIFY:
            raise ProtocolError(
                f"message of operation {code}, kind {kind}, body {body_length} and bulk {bulk_length} bytes: "
                f"at most {MESSAGE_BODY_MAX_BYTES} and {MESSAGE_BULK_MAX_BYTES} are allowed"
            )
        body_end = start + HEADER_BYTES + body_length
        if body_end > self._end:
            return False
        own_buffer = bulk_length > BULK_OWN_BUFFER_BYTES
        end = body_end + bulk_length
        if end > self._end and not own_buffer:
            return False
        fields = _decode_body(self._view[start + HEADER_BYTES : body_end])
        if not own_buffer:
            bulk = bytes(self._view[body_end:end]) if bulk_length else b""
            messages.append(Message(seq, code, kind, errno, fields, bulk))
            self._start = end
            return True
        self._bulk = aligned(bulk_length) if bulk_length >= DIRECT_IO_MIN_BYTES else bytearray(bulk_length)
        here = min(self._end, end) - body_end
        self._bulk[:here] = self._view[body_end : body_end + here]
        self._start = body_end + here
        if here == bulk_length:
            messages.append(Message(seq, code, kind, errno, fields, self._take_bulk()))
            return True
        self._pending = (seq, code, kind, errno, fields)
        self._bulk_filled = here
        return False

    def _take_bulk(self) -> bytearray | memoryview:
        bulk, self._bulk = self._bulk, _NO_BULK  # of which nothing may stay behind: its memory is used again
        return bulk

    def _compact(self) -> None:
        """Move the unfinished tail to the front when the buffer could not take the rest of its message."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start and len(self._buffer) - self._start < HEADER_BYTES + MESSAGE_BODY_MAX_BYTES * 3 // 2:
            tail = bytes(self._view[self._start : self._end])
            self._buffer[: len(tail)] = tail
            self._start, self._end = 0, len(tail)


def _decode_body(body: memoryview) -> list[Any]:
    try:
        fields = _unpackb(body)
    except Exception as error:  # msgpack raises several unrelated types for malformed input
        raise ProtocolError(f"message body of {len(body)} bytes is not msgpack: {error}") from None
    if not isinstance(fields, list):
        raise ProtocolError(f"message body is {type(fields).__name__}, expected an array")
    return fields


def decode_request(operation: Operation[Q, R], message: Message) -> Q:
    """The typed request in *message*. Raises ProtocolError when number or types of fields are wrong."""
    fields = message.fields
    if tuple(map(type, fields)) != operation.request_types:
        raise ProtocolError(f"{operation.name} request with fields {_kinds(fields)}")
    if operation.request_lists:
        _check_lists(f"{operation.name} request", operation.request_lists, fields)
    if operation.bulk_request:
        return operation.request(*fields, message.bulk)  # type: ignore[call-arg]
    return operation.request(*fields)


def decode_reply(operation: Operation[Q, R], message: Message) -> R:
    """The typed reply in *message*. Raises ProtocolError when number or types of fields are wrong."""
    fields = message.fields
    if tuple(map(type, fields)) != operation.reply_types:
        raise ProtocolError(f"{operation.name} reply with fields {_kinds(fields)}")
    if operation.reply_lists:
        _check_lists(f"{operation.name} reply", operation.reply_lists, fields)
    if operation.bulk_reply:
        return operation.reply(*fields, message.bulk)  # type: ignore[call-arg]
    return operation.reply(*fields)


def _check_lists(what: str, lists: Iterable[ListField], fields: list[Any]) -> None:
    for index, types in lists:
        if not types.issuperset(map(type, fields[index])):
            raise ProtocolError(f"{what} with a list of {_kinds(fields[index])}")


def check_records(operation: Operation[Q, R], reply: tuple[Any, ...]) -> None:
    """Raise ValueError when a record in *reply* is none: it may be damaged where it is stored."""
    for index in operation.reply_records:
        field = reply[index]
        for record in field if isinstance(field, list) else (field,):
            if record or not operation.may_lack_record:
                metadentry.check(record)


def _kinds(fields: list[Any]) -> str:
    """The types of *fields*, for a message that does not grow with them."""
    return ", ".join(type(field).__name__ for field in fields[:_SHOWN]) + (", ..." if len(fields) > _SHOWN else "")
