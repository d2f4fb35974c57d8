"""One client floods a daemon, in a process of its own, and others have their share of it."""

import contextlib
import multiprocessing
import socket
import time
from pathlib import Path
from stat import S_IFREG
from typing import Any

import pytest
import trio

from gkfs import transport, wire
from gkfs.hostfile import DaemonAddress
from gkfs.limits import CHUNK_SIZE_BYTES
from gkfs.messages import CreateRequest, ReadChunkRequest, StatRequest, WriteChunkRequest
from gkfs.operations import CREATE, READ_CHUNK, STAT, WRITE_CHUNK
from tests.daemon.raw import ACCESS
from tests.fuzz.under_fire import Daemon, daemon

_FID = 7
_ANSWERS = 50
# On an idle machine it is some ten milliseconds: what the flooder may have executed as one batch.
_ANSWER_MAX_S = 5.0
_RSS_MAX_BYTES = 600 << 20


def _flood(address: DaemonAddress, frames: bytes, takes: bool, begun: Any) -> None:
    """Send *frames* over and over; *takes*: and take the replies."""

    async def main() -> None:
        connection, _ = await transport.open_connection(address, ACCESS, b"f" * 16, "client")
        buffer = bytearray(1 << 20)
        rest = memoryview(frames)
        while True:
            with contextlib.suppress(BlockingIOError):
                rest = rest[connection.send(rest) :] or memoryview(frames)
            begun.set()
            if takes:
                with contextlib.suppress(BlockingIOError):
                    while connection.recv_into(buffer):
                        pass
            else:
                time.sleep(0.001)

    trio.run(main)


def _frames(what: str) -> bytes:
    """A megabyte of requests."""
    if what == "stats":
        (one,) = wire.encode_request(STAT, 1, StatRequest(b"/", 0))
        return bytes(one) * 30_000
    if what == "creations":
        many = [
            wire.encode_request(CREATE, n, CreateRequest(b"/%06d" % n, 0, S_IFREG, 0, 0, 0, False, b"", 1))[0]
            for n in range(15_000)
        ]
        return b"".join(many)
    (one,) = wire.encode_request(READ_CHUNK, 1, ReadChunkRequest(_FID, 0, 0, CHUNK_SIZE_BYTES))
    return bytes(one) * 30_000


async def _longest_answer_s(target: Daemon) -> float:
    """Of some requests of another client, one after the other."""
    connection, _ = await transport.open_connection(target.address, ACCESS, b"m" * 16, "client")
    longest_s = 0.0
    for seq in range(_ANSWERS):
        begun_s = time.monotonic()
        (frame,) = wire.encode_request(STAT, seq, StatRequest(b"/", 0))
        connection.send(frame)
        await _receive(connection, seq)
        longest_s = max(longest_s, time.monotonic() - begun_s)
    connection.close()
    return longest_s


async def _receive(connection: socket.socket, seq: int) -> None:
    decoder = wire.Decoder()
    while True:
        with trio.fail_after(60):
            await trio.lowlevel.wait_readable(connection.fileno())
        count = connection.recv_into(decoder.buffer())
        assert count, "the daemon has closed the connection"
        for message in decoder.received(count):
            assert (message.seq, message.errno) == (seq, 0)
            return


async def _write_a_chunk(target: Daemon) -> None:
    connection, _ = await transport.open_connection(target.address, ACCESS, b"w" * 16, "client")
    connection.setblocking(True)
    request = WriteChunkRequest(_FID, 0, 0, bytes(CHUNK_SIZE_BYTES))
    connection.sendall(b"".join(wire.encode_request(WRITE_CHUNK, 1, request)))
    connection.setblocking(False)
    await _receive(connection, 1)
    connection.close()


@pytest.mark.parametrize(
    ("what", "takes"), [("stats", True), ("creations", True), ("reads", True), ("reads", False)]
)
def test_a_client_is_answered_while_another_floods_the_daemon(what: str, takes: bool, tmp_path: Path) -> None:
    with daemon(tmp_path) as target:
        trio.run(_write_a_chunk, target)
        fork = multiprocessing.get_context("spawn")
        begun = fork.Event()
        flooder = fork.Process(target=_flood, args=(target.address, _frames(what), takes, begun), daemon=True)
        flooder.start()
        try:
            assert begun.wait(60)
            first, asked, until_s = target.status().requests, 0, time.monotonic() + 60
            while True:
                assert trio.run(_longest_answer_s, target) <= _ANSWER_MAX_S
                asked += _ANSWERS + 1  # and the status
                # It is the flood that was met, not the calm after it; their shares are the same.
                if not takes or target.status().requests > first + asked + _ANSWERS // 2:
                    break
                assert time.monotonic() < until_s
            assert flooder.is_alive()
            assert target.rss_bytes() <= _RSS_MAX_BYTES
        finally:
            flooder.kill()
            flooder.join()
