"""The pool without a pump that runs: when requests leave."""

import errno
import select
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from gkfs import wire
from gkfs.client.pool import Connection, Pool
from gkfs.client.pump import Pump
from gkfs.hostfile import DaemonAddress, Hostfile
from gkfs.messages import LookupRequest
from gkfs.operations import LOOKUP, READ_CHUNK

HOSTS = Hostfile("a" * 32, 1, {0: DaemonAddress(0, "here", "tcp://127.0.0.1:1", "-")})


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    yield ours, theirs
    theirs.close()


def arrived(end: socket.socket) -> list[bytes]:
    """The paths of the requests that have come, all that one receives at once."""
    decoder = wire.Decoder()
    try:
        count = end.recv_into(decoder.buffer())
    except BlockingIOError:
        return []
    return [message.fields[0] for message in decoder.received(count)]


@pytest.mark.parametrize("merge", [True, False])
def test_requests_leave_together_unless_told_otherwise(
    merge: bool, ends: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ends
    pump = Pump()
    pool = Pool(pump, HOSTS, Path("/none"), bytes(16), 60.0, merge=merge)
    connection = pool._connections[0]
    assert isinstance(connection, Connection)
    connection.attach(ours, 0)
    seen = []
    for name in (b"/a", b"/b", b"/c"):
        pool.call(0, LOOKUP, LookupRequest(name))
        seen.append(arrived(theirs))
    for flush in pump.before_poll:  # what the pump does before it waits
        flush()
    seen.append(arrived(theirs))
    assert seen == ([[], [], [], [b"/a", b"/b", b"/c"]] if merge else [[b"/a"], [b"/b"], [b"/c"], []])
    assert connection.channel.sent_batches == (1 if merge else 3)
    pool.close()
    pump.close()


def test_a_connection_that_breaks_at_once_is_made_again_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pump = Pump()
    pool = Pool(pump, HOSTS, Path("/none"), bytes(16), 60.0)
    connection = pool._connections[0]
    assert isinstance(connection, Connection)
    waits: list[float] = []

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)

    async def open_one(address: DaemonAddress) -> tuple[socket.socket, int]:
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours, 0

    monkeypatch.setattr(trio, "sleep", sleep)
    monkeypatch.setattr(pool, "_open", open_one)
    for _ in range(8):
        trio.run(pool._reconnect, connection)
        connection.close()
    assert waits == [0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0]
    connection.attached_s -= 10  # one that lasted
    trio.run(pool._reconnect, connection)
    assert len(waits) == 7
    pool.close()
    pump.close()


def test_a_connection_on_which_a_message_does_not_end_is_given_up(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    pump = Pump()
    pool = Pool(pump, HOSTS, Path("/none"), bytes(16), 1.0)
    connection = pool._connections[0]
    connection.attach(ours, 0)
    theirs.send(wire.HEADER.pack(1, 1 << 20, 1, READ_CHUNK.code, wire.REPLY, 0) + b"\x90" + bytes(100))
    connection._on_events(select.EPOLLIN)
    connected = []
    for now_s in (100.0, 100.9, 101.1):
        connection.expire(now_s)
        connected.append(connection.channel.connected)
    assert connected == [True, True, False]
    assert theirs.recv(1) == b""
    pool.close()
    pump.close()


def test_a_daemon_that_there_is_not_is_an_error() -> None:
    pump = Pump()
    pool = Pool(pump, HOSTS, Path("/none"), bytes(16), 60.0)
    with pytest.raises(OSError, match="daemon 7 of 1") as caught:
        pool.call(7, LOOKUP, LookupRequest(b"/a"))
    assert caught.value.errno == errno.EIO


def test_a_connection_that_broke_before_the_first_turn_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pump = Pump()
    pool = Pool(pump, HOSTS, Path("/none"), bytes(16), 60.0)
    connection = pool._connections[0]
    assert isinstance(connection, Connection)
    made = trio.Event()

    async def reconnect(broken: Connection) -> None:
        assert broken is connection
        made.set()

    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        connection.attach(ours, 0)
        theirs.close()
        connection._receive()  # the pump's first look, before `maintain` runs
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.maintain)
            with trio.fail_after(30):
                await made.wait()
            nursery.cancel_scope.cancel()

    monkeypatch.setattr(pool, "_reconnect", reconnect)
    trio.run(main)
    pool.close()
    pump.close()


def test_who_connects_again_to_a_daemon_whose_node_went_down_is_told_once() -> None:
    pump = Pump()
    pool = Pool(pump, HOSTS, Path("/none"), bytes(16), 60.0)
    setbacks: list[tuple[int, int]] = []
    (connection,) = pool._connections.values()
    for number, power_epoch in enumerate([3, 3, 5, 5]):
        pool.on_setback = partial(lambda number, daemon: setbacks.append((number, daemon)), number)
        ours, theirs = socket.socketpair()
        connection.attach(ours, power_epoch)
        connection.close()
        theirs.close()
    assert setbacks == [(2, 0)]
    pool.close()
    pump.close()
