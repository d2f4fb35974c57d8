"""The wire protocol: whole messages come out whatever the pieces they arrive in."""

import contextlib
import mmap
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gkfs import wire
from gkfs.buffers import address, is_aligned
from gkfs.errors import ProtocolError
from gkfs.limits import (
    BULK_OWN_BUFFER_BYTES,
    MESSAGE_BODY_MAX_BYTES,
    MESSAGE_BULK_MAX_BYTES,
    READDIR_PAGE_ENTRIES,
    RECEIVE_BUFFER_BYTES,
)
from gkfs.messages import Buffer, ReadChunkReply, ReaddirReply, StatRequest, WriteChunkRequest
from gkfs.operations import READ_CHUNK, READDIR, STAT, TABLE, WRITE_CHUNK


def feed(decoder: wire.Decoder, data: bytes, sizes: random.Random | None = None) -> list[wire.Message]:
    """Give *data* to *decoder* in pieces as a socket might."""
    messages: list[wire.Message] = []
    position = 0
    while position < len(data):
        buffer = decoder.buffer()
        count = min(len(buffer), len(data) - position)
        if sizes is not None:
            count = min(count, sizes.randint(1, 70_000))
        buffer[:count] = data[position : position + count]
        position += count
        messages += decoder.received(count)
    return messages


def joined(pieces: list[Buffer]) -> bytes:
    return b"".join(bytes(piece) for piece in pieces)


def test_the_documented_request_holds() -> None:
    data = joined(wire.encode_request(STAT, 7, StatRequest(b"/a/b", 0)))
    assert data.hex(" ") == "08 00 00 00 00 00 00 00 07 00 00 00 00 00 00 00 0a 00 00 00 92 c4 04 2f 61 2f 62 00"


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 3 * BULK_OWN_BUFFER_BYTES) | st.just(MESSAGE_BULK_MAX_BYTES), max_size=8),
    st.randoms(use_true_random=False),
)
def test_messages_survive_any_fragmentation(lengths: list[int], sizes: random.Random) -> None:
    requests = [WriteChunkRequest(3, 1, 0, bytes([n % 251]) * length) for n, length in enumerate(lengths)]
    data = b"".join(joined(wire.encode_request(WRITE_CHUNK, seq, request)) for seq, request in enumerate(requests))
    messages = feed(wire.Decoder(), data, sizes)
    decoded = [wire.decode_request(WRITE_CHUNK, message) for message in messages]
    assert [message.seq for message in messages] == list(range(len(lengths)))
    assert decoded == requests


def test_many_small_messages_are_one_batch() -> None:
    data = b"".join(joined(wire.encode_request(STAT, seq, StatRequest(b"/x", seq))) for seq in range(1000))
    assert [message.seq for message in feed(wire.Decoder(), data)] == list(range(1000))


def test_small_bulk_does_not_alias_the_receive_buffer() -> None:
    decoder = wire.Decoder()
    (first,) = feed(decoder, joined(wire.encode_reply(READ_CHUNK, 1, ReadChunkReply(b"a" * 100))))
    feed(decoder, joined(wire.encode_reply(READ_CHUNK, 2, ReadChunkReply(b"b" * 100))))
    assert first.bulk == b"a" * 100


def test_large_bulk_is_not_copied_into_the_body() -> None:
    data = bytes(1 << 20)
    pieces = wire.encode_request(WRITE_CHUNK, 1, WriteChunkRequest(1, 0, 0, data))
    assert pieces[1] is data


def test_large_bulk_is_received_where_a_disk_can_take_it_and_its_memory_is_used_again() -> None:
    decoder = wire.Decoder()
    data = joined(wire.encode_request(WRITE_CHUNK, 1, WriteChunkRequest(1, 0, 0, bytes(MESSAGE_BULK_MAX_BYTES))))
    places = set()
    for _ in range(3):
        for random_sizes in (None, random.Random(1)):
            (message,) = feed(decoder, data, random_sizes)
            assert is_aligned(message.bulk)
            places.add(address(message.bulk))
            del message
    assert len(places) == 1


def test_the_fullest_listing_page_fits_a_message() -> None:
    page = ReaddirReply([b"x" * 255] * READDIR_PAGE_ENTRIES, [bytes(76)] * READDIR_PAGE_ENTRIES, True)
    assert len(joined(wire.encode_reply(READDIR, 1, page))) < MESSAGE_BODY_MAX_BYTES


@pytest.mark.parametrize(
    "header",
    [
        wire.HEADER.pack(MESSAGE_BODY_MAX_BYTES + 1, 0, 1, 10, 0, 0),
        wire.HEADER.pack(0, MESSAGE_BULK_MAX_BYTES + 1, 1, 10, 0, 0),
        wire.HEADER.pack(2**32 - 1, 2**32 - 1, 1, 10, 0, 0),
        wire.HEADER.pack(1, 0, 1, 10, 3, 0) + b"\x90",
        wire.HEADER.pack(1, 0, 1, 10, 0, 0) + b"\xc1",
        wire.HEADER.pack(1, 0, 1, 10, 0, 0) + b"\x80",
    ],
    ids=["long body", "long bulk", "all long", "unknown kind", "not msgpack", "not an array"],
)
def test_what_the_protocol_forbids_is_a_protocol_error(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        feed(wire.Decoder(), header)


@given(st.binary(max_size=400))
def test_random_bytes_raise_nothing_but_protocol_error(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        feed(wire.Decoder(), data)


@pytest.mark.parametrize("fields", [[], [b"/a"], [b"/a", "0"], ["/a", 0], [b"/a", 0, 0], [b"/a", True]])
def test_requests_with_wrong_fields_are_a_protocol_error(fields: list[object]) -> None:
    message = wire.Message(1, STAT.code, wire.REQUEST, 0, fields, b"")
    with pytest.raises(ProtocolError, match="stat request"):
        wire.decode_request(STAT, message)


def test_codes_and_names_of_operations_are_unique() -> None:
    assert len({row.name for row in TABLE.values()}) == len(TABLE)
    assert all(0 < code < 256 for code in TABLE)


def test_a_connection_takes_the_memory_that_it_uses() -> None:
    """A process of a large job has a thousand of them, most of them idle."""

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    before_bytes = resident_bytes()
    decoders = [wire.Decoder() for _ in range(200)]
    for decoder in decoders:
        decoder.buffer()[:10_000] = bytes(10_000)
    assert resident_bytes() - before_bytes < len(decoders) * RECEIVE_BUFFER_BYTES // 10
