"""What a daemon does with what comes in: garbage, batches, repeats, slow peers."""

import errno
import os
import socket
import time
from pathlib import Path
from stat import S_IFREG

import pytest
import trio

from gkfs import hostfile, metadentry, wire
from gkfs.daemon.server import DaemonSettings, serve
from gkfs.errors import ExitStatus, GkfsError
from gkfs.hostfile import DaemonAddress
from gkfs.limits import CHUNK_SIZE_BYTES
from gkfs.messages import (
    CreateRequest,
    Empty,
    HelloRequest,
    LookupRequest,
    ReadChunkRequest,
    ReserveRequest,
    StatRequest,
    StatusReply,
    SyncMetadataRequest,
    UnlinkRequest,
    WriteChunkRequest,
)
from gkfs.operations import (
    CREATE,
    HELLO,
    LOOKUP,
    READ_CHUNK,
    RESERVE,
    SHUTDOWN,
    STAT,
    STATUS,
    SYNC_METADATA,
    UNLINK,
    WRITE_CHUNK,
)
from tests.daemon.raw import FSID, Raw, daemon, is_closed, with_daemon
from tests.hosts import write_hosts


def create(path: bytes = b"/a") -> CreateRequest:
    return CreateRequest(path, 1, S_IFREG | 0o644, 1, 2, 0, True, b"", time.time_ns())


@with_daemon
async def test_garbage_after_the_handshake_closes_after_what_came_before(address: DaemonAddress) -> None:
    raw = Raw(address)
    await raw.hello()
    unknown = [wire.HEADER.pack(1, 0, 9, 199, wire.REQUEST, 0) + b"\x90"]
    await raw.send(
        wire.encode_request(CREATE, 1, create()), unknown, wire.encode_request(CREATE, 2, create(b"/b"))
    )
    assert (await raw.receive()).errno == 0
    assert await is_closed(raw)
    again = Raw(address)
    await again.hello()
    assert (await again.call(STAT, 3, StatRequest(b"/a", 0))).errno == 0
    assert (await again.call(STAT, 4, StatRequest(b"/b", 0))).errno == errno.ENOENT
    again.close()


@with_daemon
async def test_requests_right_behind_the_hello_are_served(address: DaemonAddress) -> None:
    raw = Raw(address)
    await raw.prove()
    hello = wire.encode_request(HELLO, 0, HelloRequest("test"))
    await raw.send(hello, wire.encode_request(CREATE, 1, create()))
    assert (await raw.receive()).code == HELLO.code
    assert (await raw.receive()).code == CREATE.code
    raw.close()


# --- outcomes


@with_daemon
async def test_outcomes_out_of_range_are_einval(address: DaemonAddress) -> None:
    raw = Raw(address)
    await raw.hello()
    for seq, request in enumerate([create()._replace(now_ns=1 << 63), create()._replace(uid=-1)], 1):
        assert (await raw.call(CREATE, seq, request)).errno == errno.EINVAL
    assert (await raw.call(STAT, 5, StatRequest(b"/a", 0))).errno == errno.ENOENT
    for seq, path in enumerate([b"", b"a", b"/a/", b"//a", b"/a/../b", b"/.", b"/a\0b", b"/" + b"x" * 256], 10):
        assert (await raw.call(STAT, seq, StatRequest(path, 0))).errno == errno.EINVAL
        assert (await raw.call(UNLINK, seq, UnlinkRequest(path, 0, 0, 0))).errno == errno.EINVAL
    assert (await raw.call(STAT, 30, StatRequest(b"/x", -1))).errno == errno.EINVAL
    assert (await raw.call(READ_CHUNK, 31, ReadChunkRequest(-1, 0, 0, 10))).errno == errno.EINVAL
    raw.close()


@with_daemon
async def test_batch_is_executed_as_one(address: DaemonAddress) -> None:
    raw = Raw(address)
    await raw.hello()
    await raw.send(*(wire.encode_request(CREATE, n, create(b"/%d" % n)) for n in range(1, 101)))
    replies = [await raw.receive() for _ in range(100)]
    assert [reply.seq for reply in replies] == list(range(1, 101))
    status = await raw.call(STATUS, 200, Empty())
    assert status.fields[11] >= 100  # requests
    assert status.fields[12] < 20  # batches
    assert (status.fields[5], status.fields[6]) == (100, 1)
    raw.close()


# --- repeats


@with_daemon
async def test_repeated_creation_after_reconnect_gets_the_first_reply(address: DaemonAddress) -> None:
    raw = Raw(address)
    await raw.hello()
    first = await raw.call(CREATE, 1, create())
    raw.close()
    again = Raw(address)
    await again.hello()
    assert await again.call(CREATE, 1, create()) == first
    assert (await again.call(CREATE, 2, create())).errno == errno.EEXIST
    assert (await again.call(CREATE, 2, create())).errno == errno.EEXIST
    again.close()
    other = Raw(address)  # the same number of another client is another request
    await other.hello(b"d" * 16)
    assert (await other.call(CREATE, 1, create())).errno == errno.EEXIST
    other.close()


@with_daemon
async def test_repeated_reservation_moves_the_end_once(address: DaemonAddress) -> None:
    raw = Raw(address)
    await raw.hello()
    await raw.call(CREATE, 1, create())
    request = ReserveRequest(b"/a", 0, 10, time.time_ns())
    replies = [await raw.call(RESERVE, 2, request) for _ in range(3)]
    assert [reply.fields[0] for reply in replies] == [0, 0, 0]
    assert (await raw.call(RESERVE, 3, request)).fields[0] == 10
    raw.close()


def test_repeats_are_answered_after_the_daemon_was_restarted(tmp_path: Path) -> None:
    requests = [wire.encode_request(CREATE, n, create(b"/%d" % n)) for n in range(1, 6)]

    async def main() -> None:
        async with daemon(tmp_path) as address:
            raw = Raw(address)
            await raw.hello()
            await raw.send(*requests)
            before = [await raw.receive() for _ in requests]
            raw.close()
        async with daemon(tmp_path) as address:
            raw = Raw(address)
            await raw.hello()
            await raw.send(*requests)
            assert [await raw.receive() for _ in requests] == before
            raw.close()

    trio.run(main)


@with_daemon
async def test_newer_connection_of_a_client_ends_the_older(address: DaemonAddress) -> None:
    old, new = Raw(address), Raw(address)
    await old.hello()
    await new.hello()
    assert await is_closed(old)
    assert (await new.call(STAT, 1, StatRequest(b"/", 0))).errno == 0
    new.close()


# --- flow


@with_daemon
async def test_slow_reader_gets_everything_and_blocks_nobody(address: DaemonAddress) -> None:
    slow, other = Raw(address), Raw(address)
    await slow.hello()
    await other.hello(b"d" * 16)
    data = os.urandom(CHUNK_SIZE_BYTES)
    assert (await slow.call(WRITE_CHUNK, 1, WriteChunkRequest(7, 0, 0, data))).errno == 0
    count = 30
    await slow.send(
        *(wire.encode_request(READ_CHUNK, n, ReadChunkRequest(7, 0, 0, len(data))) for n in range(count))
    )
    await trio.sleep(0.1)
    with trio.fail_after(30):  # the slow one is dropped after SEND_STALL_S, 60 s
        assert (await other.call(STAT, 1, StatRequest(b"/", 0))).errno == 0
    replies = [await slow.receive() for _ in range(count)]
    assert sorted(reply.seq for reply in replies) == list(range(count))
    assert all(bytes(reply.bulk) == data for reply in replies)
    slow.close()
    other.close()


@with_daemon
async def test_metadata_is_served_while_threads_work(address: DaemonAddress) -> None:
    raw = Raw(address)
    await raw.hello()
    await raw.send(
        wire.encode_request(SYNC_METADATA, 1, SyncMetadataRequest()),
        wire.encode_request(STAT, 2, StatRequest(b"/", 0)),
    )
    assert (await raw.receive()).seq == 2
    assert (await raw.receive()).seq == 1
    raw.close()


def test_shutdown_is_answered_and_everything_is_kept(tmp_path: Path) -> None:
    async def main() -> None:
        async with daemon(tmp_path) as address:
            raw = Raw(address)
            await raw.hello()
            assert (await raw.call(CREATE, 1, create())).errno == 0
            assert (await raw.call(SHUTDOWN, 2, Empty())).errno == 0
            assert await is_closed(raw)
        async with daemon(tmp_path) as again:
            assert again == address  # the line in the hostfile stays true
            raw = Raw(again)
            await raw.hello()
            record = (await raw.call(STAT, 3, StatRequest(b"/a", 0))).fields[0]
            assert metadentry.decode(record).mode == S_IFREG | 0o644
            raw.close()
        assert len((tmp_path / "hosts").read_text().splitlines()) == 2

    trio.run(main)


def test_busy_port_is_named(tmp_path: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    path = tmp_path / "hosts"
    write_hosts(path, FSID, 1)
    listen = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(GkfsError, match=listen) as caught:
        trio.run(serve, DaemonSettings(tmp_path / "d", path, 0, listen))
    assert caught.value.status == ExitStatus.ADDRESS
    taken.close()


@pytest.mark.parametrize("text", [None, "nonsense", hostfile.format_header(FSID, 1)])
def test_wrong_hostfile_is_refused(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    if text is not None:
        write_hosts(path, FSID, 1)
        path.write_text(text)
    with pytest.raises(GkfsError, match=str(path)) as caught:
        trio.run(serve, DaemonSettings(tmp_path / "d", path, 1))
    assert caught.value.status == ExitStatus.HOSTFILE


@pytest.mark.parametrize(("merge", "batches"), [(True, 1), (False, 3)])
def test_requests_that_came_together_are_executed_together_unless_told_otherwise(
    merge: bool, batches: int, tmp_path: Path
) -> None:
    async def main() -> None:
        async with daemon(tmp_path, merge=merge) as address:
            raw = Raw(address)
            await raw.hello()
            before = (await raw.call(STATUS, 1, Empty())).fields
            requests = [wire.encode_request(LOOKUP, seq, LookupRequest(b"/none")) for seq in (2, 3, 4)]
            await raw.send(*requests)
            assert [(await raw.receive()).errno for _ in requests] == [errno.ENOENT] * 3
            after = (await raw.call(STATUS, 5, Empty())).fields
            counted = [StatusReply(*fields) for fields in (before, after)]
            assert counted[1].requests - counted[0].requests == 4  # and the first STATUS
            assert counted[1].batches - counted[0].batches == batches + 1
            raw.close()

    trio.run(main)
