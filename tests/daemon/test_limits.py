"""What one peer may take of a daemon: each bound of docs/limits.md that is the daemon's own."""

import errno
import os
import socket
import time
from pathlib import Path
from stat import S_IFREG
from typing import Any

import pytest
import trio

from gkfs import metadentry, transport, wire
from gkfs.bulk_messages import PutRequest
from gkfs.daemon import connection as connection_module
from gkfs.daemon import session as session_module
from gkfs.daemon.connection import Connection
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.leases import Leases
from gkfs.daemon.outbox import Outbox
from gkfs.daemon.session import Session, Sessions
from gkfs.daemon.shares import Shares
from gkfs.daemon.store import MetadataStore
from gkfs.hostfile import DaemonAddress
from gkfs.limits import (
    BATCH_REQUESTS_MAX,
    CHUNK_SIZE_BYTES,
    CONNECTIONS_MAX,
    DEDUP_WINDOW,
    HOLD_FILES,
    INLINE_IO_MAX_BYTES,
    PEER_KEEPALIVE_S,
    PEER_UNCONFIRMED_S,
    REQUESTS_IN_WORK_MAX,
    SHARE_LEAST_BYTES,
    SHARE_MAX_BYTES,
    SHARES_BYTES,
)
from gkfs.messages import (
    CreateRequest,
    DetachRequest,
    ExtendRequest,
    HoldRequest,
    LinkRequest,
    ReadChunkRequest,
    SetattrRequest,
    StatRequest,
    SyncMetadataRequest,
    UnlinkRequest,
    WriteChunkRequest,
)
from gkfs.operations import (
    CREATE,
    DETACH,
    EXTEND,
    HOLD,
    LINK,
    PUT,
    READ_CHUNK,
    SETATTR,
    STAT,
    SYNC_METADATA,
    UNLINK,
    WRITE_CHUNK,
)
from tests.daemon.raw import ACCESS, is_closed, known, with_daemon
from tests.daemon.test_connection import create

OTHER = b"d" * 16
FID = 77
I64_END, U64_END = 1 << 63, 1 << 64


def run_with_daemon(test: Any, folder: Path) -> None:
    with_daemon(test)(folder)


# --- memory


def test_replies_that_nobody_takes_are_bounded_however_much_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = {"queued": 0, "tasks": 0, "bytes": 0}
    send, begin = Outbox.send, Connection.task_begins

    def sent(self: Outbox, pieces: list[Any]) -> None:
        send(self, pieces)
        peaks["queued"] = max(peaks["queued"], self.queued_bytes)

    def begun(self: Connection, size_bytes: int) -> None:
        begin(self, size_bytes)
        peaks["tasks"] = max(peaks["tasks"], self.tasks)
        peaks["bytes"] = max(peaks["bytes"], self.tasks_bytes)

    monkeypatch.setattr(Outbox, "send", sent)
    monkeypatch.setattr(Connection, "task_begins", begun)

    async def ask_for_gigabytes(address: DaemonAddress) -> None:
        raw = await known(address)
        data = os.urandom(CHUNK_SIZE_BYTES)
        assert (await raw.call(WRITE_CHUNK, 1, WriteChunkRequest(FID, 0, 0, data))).errno == 0
        for length, count in ((INLINE_IO_MAX_BYTES, 20_000), (CHUNK_SIZE_BYTES, 3_000)):
            with trio.move_on_after(2):  # the daemon stops to read
                for start in range(0, count, 100):
                    batch = [
                        wire.encode_request(READ_CHUNK, start + n, ReadChunkRequest(FID, 0, 0, length))
                        for n in range(100)
                    ]
                    await raw.send(*batch)
        raw.close()

    run_with_daemon(ask_for_gigabytes, tmp_path)
    assert 0 < peaks["tasks"] <= REQUESTS_IN_WORK_MAX
    assert peaks["bytes"] <= 3 * SHARE_MAX_BYTES  # its share, and what was in the batch that went beyond it
    assert SHARE_MAX_BYTES / 2 < peaks["queued"] <= 4 * SHARE_MAX_BYTES


def test_a_connection_has_less_of_the_memory_the_more_there_are() -> None:
    shares = Shares()
    found = []
    for shares.connections in (0, 1, 16, 17, 64, CONNECTIONS_MAX):
        found.append(shares.each_bytes)
    assert found[:3] == [SHARE_MAX_BYTES] * 3
    assert SHARE_MAX_BYTES > found[3] > found[4] == SHARES_BYTES // 64
    assert found[5] == SHARE_LEAST_BYTES


def test_a_flood_is_executed_in_batches_between_which_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    execute = Dispatcher.execute

    def executed(self: Dispatcher, connection: Connection, messages: list[wire.Message]) -> None:
        sizes.append(len(messages))
        execute(self, connection, messages)

    monkeypatch.setattr(Dispatcher, "execute", executed)

    async def flood(address: DaemonAddress) -> None:
        raw = await known(address)
        count = 20_000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                raw.send, [b"".join(wire.encode_request(STAT, 1, StatRequest(b"/", 0))[0] for _ in range(count))]
            )
            for _ in range(count):
                assert (await raw.receive()).errno == 0
        raw.close()

    run_with_daemon(flood, tmp_path)
    assert sum(sizes) >= 20_000
    assert max(sizes) <= BATCH_REQUESTS_MAX


def test_requests_in_work_of_one_connection_are_bounded_and_all_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "REQUESTS_IN_WORK_MAX", 10)
    monkeypatch.setattr(connection_module, "BATCH_REQUESTS_MAX", 5)
    monkeypatch.setattr(connection_module, "BATCH_UNLOOKED", 5)
    peak = 0
    begin = Connection.task_begins

    def begun(self: Connection, size_bytes: int) -> None:
        nonlocal peak
        begin(self, size_bytes)
        peak = max(peak, self.tasks)

    monkeypatch.setattr(Connection, "task_begins", begun)

    async def sync_often(address: DaemonAddress) -> None:
        raw = await known(address)
        await raw.send(*(wire.encode_request(SYNC_METADATA, n, SyncMetadataRequest()) for n in range(100)))
        assert {(await raw.receive()).seq for _ in range(100)} == set(range(100))
        raw.close()

    run_with_daemon(sync_often, tmp_path)
    assert 5 <= peak < 10 + 5


def test_replies_kept_are_bounded_and_who_has_most_loses_its_oldest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "REPLIES_KEPT_BYTES", 1 << 20)

    async def main() -> None:
        store = MetadataStore(tmp_path / "m")
        sessions = Sessions(store)
        flooder, modest = sessions.open(b"f" * 16, "client"), sessions.open(b"m" * 16, "client")
        for seq in range(DEDUP_WINDOW // 2):
            flooder.remember(seq, [bytes(10_000)])
            sessions.trim()
            assert flooder.replies_bytes + modest.replies_bytes <= 1 << 20
            if seq < 100:
                modest.remember(seq, [b"small"])
        assert len(modest.replies) == 100
        assert DEDUP_WINDOW // 2 - 1 in flooder.replies
        assert 0 not in flooder.replies
        store.close()

    trio.run(main)


def test_what_is_counted_of_replies_is_what_is_there() -> None:
    session = Session(bytes(16), "client")
    for seq in range(DEDUP_WINDOW + 10):
        session.remember(seq, [bytes(100)])
    session.remember(DEDUP_WINDOW, [bytes(50)])
    session.forget(DEDUP_WINDOW + 1)
    session.forget(DEDUP_WINDOW + 1)
    assert DEDUP_WINDOW - 2 <= len(session.replies) < DEDUP_WINDOW
    assert session.replies_bytes == session.total.size_bytes
    assert session.replies_bytes == sum(session_module._kept_bytes(pieces) for pieces in session.replies.values())


def test_leases_of_one_directory_are_bounded(tmp_path: Path) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            leases = Leases(nursery, restarted=False)
            for number in range(CONNECTIONS_MAX):
                assert leases.grant(b"/", number.to_bytes(16, "big"))
            assert not leases.grant(b"/", b"x" * 16)
            assert leases.grant(b"/", bytes(16))  # who has one
            await trio.sleep(0.3)  # longer than a lease
            assert leases.grant(b"/", b"x" * 16)
            assert len(leases._held[b"/"]) < 10

    trio.run(main)


# --- peers that do nothing


def test_a_peer_that_stops_within_a_message_is_dropped_and_one_between_messages_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "RECEIVE_STALL_S", 0.5)

    async def stop(address: DaemonAddress) -> None:
        silent, stopped, slow = await known(address), await known(address, OTHER), await known(address, b"s" * 16)
        (frame,) = wire.encode_request(STAT, 1, StatRequest(b"/", 0))
        bulk = [
            bytes(piece)
            for piece in wire.encode_request(WRITE_CHUNK, 1, WriteChunkRequest(9, 0, 0, bytes(1 << 20)))
        ]
        await stopped.send([frame, frame[:-1]])
        assert (await stopped.receive()).errno == 0
        await slow.send([bulk[0], bulk[1][:1000]])
        begun_s = time.monotonic()
        assert await is_closed(stopped)
        assert await is_closed(slow)
        assert time.monotonic() - begun_s < 30
        await trio.sleep(0.6)
        assert (await silent.call(STAT, 1, StatRequest(b"/", 0))).errno == 0
        silent.close()

    run_with_daemon(stop, tmp_path)


@with_daemon
async def test_both_ends_of_a_tcp_connection_notice_that_the_other_host_has_vanished(
    address: DaemonAddress,
) -> None:
    connection, _ = await transport.open_connection(address._replace(unix="-"), ACCESS, OTHER, "client")
    port = connection.getsockname()[1]
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == PEER_KEEPALIVE_S
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == PEER_UNCONFIRMED_S * 1000
    # The daemon's end: the kernel shows a keepalive timer (02) of a connection on which nothing is due.
    timer = ""
    with trio.move_on_after(10):  # until what it has sent is confirmed, another one runs
        while not timer.startswith("02:"):
            await trio.sleep(0.01)
            lines = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
            (timer,) = [fields[5] for fields in lines if fields[2].endswith(f":{port:04X}") and fields[3] == "01"]
    connection.close()
    assert timer.startswith("02:")


# --- values


@with_daemon
async def test_numbers_that_fit_no_record_are_einval_and_change_nothing(address: DaemonAddress) -> None:
    raw, other = await known(address), await known(address, OTHER)
    assert (await raw.call(CREATE, 1, create())).errno == 0
    before = (await raw.call(STAT, 2, StatRequest(b"/a", 0))).fields
    fid_or_none = 0
    hostile: list[tuple[Any, Any]] = [
        # While another client is connected a removed file stays, with the time given, for who may have it open.
        (UNLINK, UnlinkRequest(b"/a", 0, 0, I64_END)),
        (UNLINK, UnlinkRequest(b"/a", 0, -1, 1)),
        (EXTEND, ExtendRequest(b"/a", fid_or_none, -5, 1, False, False)),
        (EXTEND, ExtendRequest(b"/a", fid_or_none, 1, -I64_END, False, False)._replace(mtime_ns=U64_END - 1)),
        (SETATTR, SetattrRequest(b"/a", 0, 1, 1 << 32, 0, 0, 0, 0, 1)),
        (SETATTR, SetattrRequest(b"/a", 0, 2, 0, -1, 0, 0, 0, 1)),
        (CREATE, CreateRequest(b"/b", -1, S_IFREG, 0, 0, 0, True, b"", 1)),
    ]
    for seq, (operation, request) in enumerate(hostile, 10):
        assert (await raw.call(operation, seq, request)).errno == errno.EINVAL, request
    assert (await raw.call(STAT, 3, StatRequest(b"/a", 0))).fields == before
    assert (await raw.call(STAT, 4, StatRequest(b"/b", 0))).errno == errno.ENOENT
    raw.close()
    other.close()


@with_daemon
async def test_a_file_can_be_linked_after_an_attempt_with_an_impossible_time(address: DaemonAddress) -> None:
    raw = await known(address)
    created = await raw.call(CREATE, 1, create())
    fid = metadentry.fid_of(created.fields[0])
    assert (await raw.call(DETACH, 2, DetachRequest(b"/a", fid))).errno == 0
    assert (await raw.call(LINK, 3, LinkRequest(fid, b"/b", 0, I64_END))).errno == errno.EINVAL
    with trio.fail_after(20):  # what holds a name meanwhile is given up after LOCK_WAIT_S, 30 s
        assert (await raw.call(LINK, 4, LinkRequest(fid, b"/b", 0, 1))).errno == 0
    raw.close()


@with_daemon
async def test_what_is_beyond_the_largest_file_is_efbig(address: DaemonAddress) -> None:
    raw = await known(address)
    await raw.call(CREATE, 1, create())
    answer = await raw.call(EXTEND, 2, ExtendRequest(b"/a", 0, 1 << 60, 1, False, False))
    assert answer.errno == errno.EFBIG
    raw.close()


@with_daemon
async def test_more_open_files_than_a_message_may_name_are_einval(address: DaemonAddress) -> None:
    raw = await known(address)
    for count, number in ((HOLD_FILES, 0), (HOLD_FILES + 1, errno.EINVAL)):
        answer = await raw.call(HOLD, count, HoldRequest([b"/none"] * count, [1] * count))
        assert answer.errno == number
    raw.close()


@with_daemon
async def test_an_attribute_without_value_is_einval(address: DaemonAddress) -> None:
    raw = await known(address)
    request = PutRequest(b"/a", 0, S_IFREG | 0o600, 0, 0, 0, 0, False, 1, 1, 1, b"", [b"user.a"], b"")
    assert (await raw.call(PUT, 1, request)).errno == errno.EINVAL
    raw.close()


@pytest.mark.parametrize("operation", [HOLD, PUT], ids=lambda operation: str(operation.name))
def test_items_of_wrong_types_close_the_connection(operation: Any, tmp_path: Path) -> None:
    fields: dict[Any, list[Any]] = {
        HOLD: [["/a"], [1]],
        PUT: [b"/a", 0, S_IFREG, 0, 0, 0, 0, False, 1, 1, 1, b"", [1, 2]],
    }

    async def send(address: DaemonAddress) -> None:
        raw = await known(address)
        body = wire._packb(fields[operation])
        await raw.send([wire.HEADER.pack(len(body), 0, 1, operation.code, wire.REQUEST, 0) + body])
        assert await is_closed(raw)

    run_with_daemon(send, tmp_path)
