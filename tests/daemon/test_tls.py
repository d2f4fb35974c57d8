"""A daemon that speaks TLS: who gets past its gate, and what somebody in between gets."""

import errno
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from gkfs import tls, transport, wire
from gkfs.commands import hostfiles
from gkfs.daemon import connection as connection_module
from gkfs.daemon import gate as gate_module
from gkfs.daemon.peers import Peer
from gkfs.errors import ExitStatus, GkfsError
from gkfs.handshake import GREETING_BYTES, Call
from gkfs.hostfile import DaemonAddress, Features
from gkfs.keyfile import PROOF_BYTES, Access, Key
from gkfs.limits import PROTOCOL_VERSION
from gkfs.messages import HelloRequest, ReadChunkRequest, StatRequest, WriteChunkRequest
from gkfs.operations import HELLO, READ_CHUNK, STAT, WRITE_CHUNK
from gkfs.tls import Certificate, TlsSocket
from tests.daemon.raw import CLIENT, FSID, KEY, Raw, daemon, end_of
from tests.relay import Relay

IN_TLS = Access(FSID, KEY, tls=True)
PLAIN = Access(FSID, KEY)
MIB = 1 << 20


def with_tls_daemon(test: Callable[[DaemonAddress], Awaitable[None]]) -> Callable[[Path], None]:
    """Run an async test beside one daemon in TLS; its address has no Unix socket."""

    async def main(folder: Path) -> None:
        hostfiles.create(folder / "hosts", FSID, 1, KEY, Features(tls=True))
        async with daemon(folder) as address:
            await test(address._replace(unix="-"))

    def run(tmp_path: Path) -> None:
        trio.run(main, tmp_path)

    run.__name__, run.__module__ = test.__name__, test.__module__
    return run


async def serves(address: DaemonAddress) -> None:
    """The daemon answers who has the key."""
    connection, _ = await transport.open_connection(address, IN_TLS, os.urandom(16), "client")
    assert isinstance(connection, TlsSocket)
    connection.close()


@asynccontextmanager
async def peer(address: DaemonAddress, access: Access = IN_TLS, role: str = "client") -> AsyncIterator[Peer]:
    async def locate() -> DaemonAddress:
        return address

    result = Peer("daemon 0", locate, access, os.urandom(16), role)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(result.run)
        yield result
        nursery.cancel_scope.cancel()


async def refused(address: DaemonAddress, access: Access) -> str:
    """What is said to who calls with *access*, and is refused."""
    with pytest.raises(GkfsError) as caught:
        await transport.open_connection(address, access, CLIENT, "client")
    assert caught.value.status == ExitStatus.ACCESS
    return str(caught.value)


def raw_over(connection: socket.socket) -> Raw:
    raw = Raw.__new__(Raw)
    raw.socket = connection
    raw.decoder = wire.Decoder()
    raw.messages = []
    return raw


async def begin(connection: TlsSocket) -> Raw:
    connection.setblocking(False)
    await transport.begin_tls(connection)
    return raw_over(connection)


async def dial(address: DaemonAddress) -> Raw:
    """A connection in TLS, before anything is said."""
    return await begin(tls.call(socket.create_connection(transport.tcp_address(address.tcp))))


# --- who speaks as he should


@with_tls_daemon
async def test_data_pass_whole_both_ways(address: DaemonAddress) -> None:
    chunks = [os.urandom(MIB - number) for number in range(24)]
    async with peer(address) as other:
        writes = [WriteChunkRequest(1 << 20, number, 0, data) for number, data in enumerate(chunks)]
        assert not [one for one in await other.call_many(WRITE_CHUNK, writes) if isinstance(one, OSError)]
        reads = [ReadChunkRequest(1 << 20, number, 0, MIB) for number in range(len(chunks))]
        replies = await other.call_many(READ_CHUNK, reads)
        assert [bytes(reply.data) for reply in replies if not isinstance(reply, OSError)] == chunks


@with_tls_daemon
async def test_thousand_short_requests_at_once_are_answered(address: DaemonAddress) -> None:
    async with peer(address) as other:
        replies = await other.call_many(STAT, [StatRequest(b"/", 0)] * 1000)
        assert not [reply for reply in replies if isinstance(reply, OSError)]


def test_the_unix_socket_needs_no_tls(tmp_path: Path) -> None:
    async def main() -> None:
        hostfiles.create(tmp_path / "hosts", FSID, 1, KEY, Features(tls=True))
        async with daemon(tmp_path) as address:
            connection, _ = await transport.open_connection(address, IN_TLS, CLIENT, "client")
            assert connection.family == socket.AF_UNIX
            assert not isinstance(connection, TlsSocket)
            connection.close()

    trio.run(main)


# --- one speaks TLS, the other does not


@with_tls_daemon
async def test_a_plain_caller_is_told_in_one_line_and_what_he_says_is_not_read(address: DaemonAddress) -> None:
    said = await refused(address, PLAIN)
    assert said.startswith("daemon 0 (")
    assert "speaks TLS only, and our hostfile does not say so" in said
    raw = raw_over(socket.create_connection(transport.tcp_address(address.tcp)))
    raw.socket.setblocking(False)
    call = Call(PLAIN, 0, CLIENT, "client", "the daemon")
    await raw.send([call.greeting], wire.encode_request(HELLO, 0, HelloRequest("x")))
    assert await end_of(raw) == struct.pack("<4sHH", b"gkfs", PROTOCOL_VERSION, errno.EPROTONOSUPPORT)
    await serves(address)


def test_a_caller_in_tls_says_that_the_daemon_does_not_speak_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with daemon(tmp_path) as address:
            said = await refused(address._replace(unix="-"), IN_TLS)
            assert said.startswith("daemon 0 (")
            assert "does not answer in TLS, which the hostfile asks for" in said

    with caplog.at_level(logging.WARNING):
        trio.run(main)
    assert any("speaks TLS, which this file system was started without" in line for line in caplog.messages)


def test_a_daemon_does_not_start_where_hostfile_and_rootdir_disagree(tmp_path: Path) -> None:
    async def main() -> None:
        for in_tls in (True, False):
            (tmp_path / "hosts").unlink(missing_ok=True)
            hostfiles.create(tmp_path / "hosts", FSID, 1, KEY, Features(tls=in_tls))
            async with daemon(tmp_path):
                pass

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(main)
    (error,) = caught.value.exceptions
    assert isinstance(error, GkfsError)
    assert "is of a file system with TLS, the hostfile of one without TLS" in str(error)


# --- strangers


def _hello_of_tls() -> bytes:
    """The first bytes of a connection in TLS."""
    left, right = socket.socketpair()
    left.setblocking(False)
    context = tls._caller_context()
    calls = context.wrap_socket(left, do_handshake_on_connect=False)
    assert isinstance(calls, TlsSocket)
    assert calls.step() == "read"
    data = right.recv(1 << 16)
    calls.close()
    right.close()
    return data


@pytest.mark.parametrize("kind", ["nothing", "first", "half", "hello", "in-tls", "greeting"])
def test_who_falls_silent_is_dropped(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gate_module, connection_module):
        monkeypatch.setattr(module, "HANDSHAKE_TIMEOUT_S", 0.3)

    @with_tls_daemon
    async def test(address: DaemonAddress) -> None:
        if kind in ("in-tls", "greeting"):
            raw = await dial(address)
            if kind == "greeting":
                await raw.answer(Call(IN_TLS, 0, CLIENT, "client", "").greeting)
        else:
            raw = raw_over(socket.create_connection(transport.tcp_address(address.tcp)))
            raw.socket.setblocking(False)
            hello = _hello_of_tls()
            await raw.send([{"nothing": b"", "first": hello[:1], "half": hello[:100], "hello": hello}[kind]])
        with trio.fail_after(5):
            await end_of(raw)
        await serves(address)

    test(tmp_path)


@pytest.mark.parametrize("kind", ["garbage", "garbled-hello", "inside", "no-key", "gone"])
def test_strangers_are_closed_at_once_and_the_daemon_serves_on(kind: str, tmp_path: Path) -> None:
    @with_tls_daemon
    async def test(address: DaemonAddress) -> None:
        for number in range(50):
            if kind == "inside":
                raw = await dial(address)
                await raw.send([os.urandom(200)])
            elif kind == "no-key":
                raw = await dial(address)
                await raw.answer(Call(IN_TLS, 0, CLIENT, "client", "").greeting)
                await raw.send([os.urandom(PROOF_BYTES)])
            else:
                raw = raw_over(socket.create_connection(transport.tcp_address(address.tcp)))
                raw.socket.setblocking(False)
                hello = bytearray(_hello_of_tls())
                hello[number] ^= 0xFF
                await raw.send([b"\x16" + os.urandom(300) if kind == "garbage" else bytes(hello)])
                if kind == "gone":
                    linger = struct.pack("ii", 1, 0)
                    raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)  # a reset, not an end
                    raw.close()
                    continue
            raw.socket.shutdown(socket.SHUT_WR)
            with trio.fail_after(5):
                await end_of(raw)
        await serves(address)

    test(tmp_path)


@with_tls_daemon
async def test_who_has_another_key_is_named_as_without_tls(address: DaemonAddress) -> None:
    assert "has another key" in await refused(address, Access(FSID, Key(b"x" * 32), tls=True))
    await serves(address)


# --- somebody in between


@with_tls_daemon
async def test_who_listens_hears_neither_names_nor_data(address: DaemonAddress) -> None:
    data = b"the secret contents" * 1000
    with Relay(address) as relay:
        async with peer(relay.address) as other:
            await other.call(WRITE_CHUNK, WriteChunkRequest(1 << 20, 0, 0, data))
            with pytest.raises(FileNotFoundError):
                await other.call(STAT, StatRequest(b"/secret-name", 0))
            reply = await other.call(READ_CHUNK, ReadChunkRequest(1 << 20, 0, 0, MIB))
            assert bytes(reply.data) == data
        heard = bytes(relay.heard)
    assert len(heard) > 2 * len(data)
    for secret in (b"secret", FSID.encode(), bytes.fromhex(FSID), b"gkfs: ", b"client"):
        assert secret not in heard


def test_without_tls_he_hears_it_all(tmp_path: Path) -> None:
    async def main() -> None:
        async with daemon(tmp_path) as address:
            with Relay(address) as relay:
                async with peer(relay.address, PLAIN) as other:
                    with pytest.raises(FileNotFoundError):
                        await other.call(STAT, StatRequest(b"/secret-name", 0))
                assert b"/secret-name" in relay.heard

    trio.run(main)


@pytest.mark.parametrize("direction", ["to_daemon", "to_client"])
def test_a_changed_byte_ends_the_connection_and_what_was_asked_is_repeated(direction: str, tmp_path: Path) -> None:
    @with_tls_daemon
    async def test(address: DaemonAddress) -> None:
        chunks = [os.urandom(100_000) for _ in range(20)]
        changed: list[int] = []

        def change(before: int, piece: bytes) -> bytes:
            if before + len(piece) > 400_000 and len(changed) < 3 and relay.connections not in changed:
                changed.append(relay.connections)
                return piece[:-1] + bytes([piece[-1] ^ 1])
            return piece

        with Relay(address) as relay:
            setattr(relay, direction, change)
            async with peer(relay.address) as other:
                writes = [WriteChunkRequest(1 << 20, number, 0, data) for number, data in enumerate(chunks)]
                assert not [one for one in await other.call_many(WRITE_CHUNK, writes) if isinstance(one, OSError)]
                for _ in range(2):
                    reads = [ReadChunkRequest(1 << 20, number, 0, MIB) for number in range(len(chunks))]
                    replies = await other.call_many(READ_CHUNK, reads)
                    assert [bytes(one.data) for one in replies if not isinstance(one, OSError)] == chunks
            assert changed == [1, 2, 3]
            assert relay.connections in (3, 4)  # the last change may be of what nobody waits for any more

    test(tmp_path)


class _Between:
    """Has a certificate of his own, and carries the handshake between who calls him and the daemon."""

    def __init__(self, address: DaemonAddress) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._target = address
        self.heard = b""
        self.told = b""
        self.address = address._replace(tcp=f"tcp://127.0.0.1:{self._listener.getsockname()[1]}")

    async def run(self) -> None:
        await trio.lowlevel.wait_readable(self._listener.fileno())
        caller = await begin(Certificate().answer(self._listener.accept()[0]))
        called = await dial(self._target)
        greeting = await caller.take(GREETING_BYTES)
        answer = await called.answer(greeting)
        await caller.send([answer])
        self.heard = await end_of(caller)
        # Nor does the daemon take what proves the key for the caller's connection to us.
        text = greeting + answer[:-PROOF_BYTES] + caller.socket.binding  # type: ignore[attr-defined]
        await called.send([KEY.proof(b"gkfs: proof of the caller\0" + text)])
        self.told = await end_of(called)
        self._listener.close()


def test_who_stands_between_with_a_certificate_of_his_own_gets_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @with_tls_daemon
    async def test(address: DaemonAddress) -> None:
        between = _Between(address)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(between.run)
            assert "somebody else answers there" in await refused(between.address, IN_TLS)
        assert (between.heard, between.told) == (b"", b"")
        await serves(address)

    with caplog.at_level(logging.WARNING):
        test(tmp_path)
    assert any("does not have the key" in line for line in caplog.messages)


def test_who_takes_tls_off_on_the_way_gets_nothing(tmp_path: Path) -> None:
    @with_tls_daemon
    async def test(address: DaemonAddress) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        fake = address._replace(tcp=f"tcp://127.0.0.1:{listener.getsockname()[1]}")

        async def carry() -> None:
            await trio.lowlevel.wait_readable(listener.fileno())
            caller = raw_over(listener.accept()[0])
            caller.socket.setblocking(False)
            called = await dial(address)
            await caller.send([await called.answer(await caller.take(GREETING_BYTES))])
            assert await end_of(caller) == b""
            called.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(carry)
            # A caller whose hostfile has lost the word for TLS.
            assert "somebody else answers there" in await refused(fake, PLAIN)
        listener.close()

    test(tmp_path)
