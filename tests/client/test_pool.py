"""The pool without a pump that runs: when requests leave."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gkfs import wire
from gkfs.client.pool import Connection, Pool
from gkfs.client.pump import Pump
from gkfs.hostfile import DaemonAddress, Hostfile
from gkfs.messages import LookupRequest
from gkfs.operations import LOOKUP

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
    connection.attach(ours)
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
