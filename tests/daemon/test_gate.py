"""Who gets past the gate of a daemon: who has the key, over a fresh handshake of his own, and nobody else."""

import errno
import logging
import os
import socket
import struct
from pathlib import Path
from stat import S_IFREG

import pytest
import trio
import trio.testing

from gkfs import transport, wire
from gkfs.daemon import connection as connection_module
from gkfs.daemon import gate as gate_module
from gkfs.daemon.gate import Caller, Refusals
from gkfs.errors import ExitStatus, GkfsError
from gkfs.handshake import ANSWER_BYTES, GREETING_BYTES, HEAD_BYTES
from gkfs.hostfile import DaemonAddress
from gkfs.keyfile import PROOF_BYTES, Access, Key
from gkfs.limits import PROTOCOL_VERSION, REFUSALS_LOGGED, REFUSALS_LOGGED_OF_ONE, REFUSALS_WINDOW_S
from gkfs.messages import CreateRequest, Empty, HelloRequest, StatRequest
from gkfs.operations import CREATE, HELLO, SHUTDOWN, STAT
from tests.daemon.raw import ACCESS, CLIENT, FSID, KEY, Raw, call, daemon, end_of, is_closed, serves, with_daemon

OTHER_KEY = Key(b"x" * 32)
NONCE = slice(GREETING_BYTES - 32, GREETING_BYTES)


# --- who has the key


@with_daemon
async def test_who_has_the_key_is_told_what_the_daemon_is(address: DaemonAddress) -> None:
    for where, family in ((address, socket.AF_UNIX), (address._replace(unix="-"), socket.AF_INET)):
        connection, reply = await transport.open_connection(where, ACCESS, CLIENT, "client")
        assert connection.family == family
        assert (reply.daemon_count, reply.boot_epoch) == (1, 1)
        connection.close()


@with_daemon
async def test_a_handshake_in_single_bytes_is_taken(address: DaemonAddress) -> None:
    raw, mine = Raw(address), call()

    async def trickle(data: bytes) -> None:
        for position in range(len(data)):
            await raw.send([data[position : position + 1]])
            await trio.sleep(0.001)

    await trickle(mine.greeting)
    await trickle(mine.prove(await raw.take(ANSWER_BYTES)))
    await trickle(b"".join(wire.encode_request(HELLO, 0, HelloRequest("test"))))
    assert (await raw.receive()).errno == 0
    raw.close()


# --- who has not


@with_daemon
async def test_a_daemon_with_another_key_is_named_and_told_nothing(address: DaemonAddress) -> None:
    with pytest.raises(GkfsError, match=rf"another key for file system {FSID}") as caught:
        await transport.open_connection(address, Access(FSID, OTHER_KEY), CLIENT, "client")
    assert caught.value.status == ExitStatus.ACCESS
    await serves(address)


@with_daemon
async def test_a_wrong_proof_is_closed_at_once_and_nothing_behind_it_is_done(address: DaemonAddress) -> None:
    request = CreateRequest(b"/a", 1, S_IFREG | 0o644, 1, 2, 0, True, b"", 1)
    behind = [wire.encode_request(HELLO, 0, HelloRequest("x")), wire.encode_request(CREATE, 1, request)]
    for proof in (bytes(PROOF_BYTES), os.urandom(PROOF_BYTES), OTHER_KEY.proof(b"x")):
        raw = Raw(address)
        await raw.answer(call().greeting)
        await raw.send([proof], *behind)
        with trio.fail_after(2):
            assert await end_of(raw) == b""
    good = Raw(address)
    await good.hello()
    assert (await good.call(STAT, 1, StatRequest(b"/a", 0))).errno == errno.ENOENT
    good.close()


@with_daemon
async def test_requests_instead_of_a_proof_are_not_executed(address: DaemonAddress) -> None:
    for before in (b"", call().greeting):
        raw = Raw(address)
        await raw.send([before], wire.encode_request(SHUTDOWN, 1, Empty()), [bytes(PROOF_BYTES)])
        await end_of(raw)
    await serves(address)


@with_daemon
async def test_a_replayed_handshake_is_refused(address: DaemonAddress) -> None:
    raw, mine = Raw(address), call()
    proof = mine.prove(await raw.answer(mine.greeting))
    await raw.send([proof], wire.encode_request(HELLO, 0, HelloRequest("test")))
    assert (await raw.receive()).errno == 0
    again = Raw(address)
    await again.answer(mine.greeting)  # the daemon's nonce is another one now
    await again.send([proof])
    assert await end_of(again) == b""
    raw.close()


@with_daemon
async def test_the_daemons_own_proofs_sent_back_are_refused(address: DaemonAddress) -> None:
    raw = Raw(address)
    answer = await raw.answer(call().greeting)
    await raw.send([answer[-PROOF_BYTES:]])
    assert await end_of(raw) == b""
    # Its challenge as ours on a second connection: what it proves there must not serve on the first.
    first, second, mine = Raw(address), Raw(address), call()
    answer = await first.answer(mine.greeting)
    greeting = bytearray(mine.greeting)
    greeting[NONCE] = answer[HEAD_BYTES:-PROOF_BYTES]
    await first.send([(await second.answer(bytes(greeting)))[-PROOF_BYTES:]])
    assert await end_of(first) == b""
    second.close()


@pytest.mark.parametrize("where", [6, 28, 43, NONCE.start], ids=["role", "client", "client's end", "nonce"])
def test_a_proof_for_another_greeting_is_refused(where: int, tmp_path: Path) -> None:
    @with_daemon
    async def test(address: DaemonAddress) -> None:
        raw, mine = Raw(address), call(role="client")
        greeting = bytearray(mine.greeting)
        greeting[where] = greeting[where] % 2 + 1
        answer = await raw.answer(bytes(greeting))
        with pytest.raises(GkfsError, match="another key"):
            mine.prove(answer)  # nor does a caller take it
        text = mine.greeting + answer[:-PROOF_BYTES]
        await raw.send([KEY.proof(b"gkfs: proof of the caller\0" + text)])
        assert await end_of(raw) == b""

    test(tmp_path)


@with_daemon
async def test_who_calls_another_daemon_or_file_system_learns_nothing_of_this_one(address: DaemonAddress) -> None:
    for wrong in (call(Access("b" * 32, KEY)), call(index=1)):
        raw = Raw(address)
        await raw.send([wrong.greeting])
        assert await end_of(raw) == struct.pack("<4sHH", b"gkfs", PROTOCOL_VERSION, errno.ENXIO)
    with pytest.raises(GkfsError, match="another daemon") as caught:
        await transport.open_connection(address, Access("b" * 32, KEY), CLIENT, "client")
    assert caught.value.status == ExitStatus.HOSTFILE


# --- other versions, garbage, silence


@with_daemon
async def test_other_versions_are_told_ours(address: DaemonAddress) -> None:
    newer = Raw(address)
    await newer.send([struct.pack("<4sH", b"gkfs", PROTOCOL_VERSION + 1) + bytes(300)])
    assert await end_of(newer) == struct.pack("<4sHH", b"gkfs", PROTOCOL_VERSION, errno.EPROTO)
    older = Raw(address)  # below 5 the first message was this
    body = wire._packb([4, "0.0", FSID, 0, CLIENT, "client"])
    await older.send([wire.HEADER.pack(len(body), 0, 0, HELLO.code, wire.REQUEST, 0) + body])
    answer = await older.receive()
    assert answer.errno == errno.EPROTO
    assert f"this daemon speaks protocol {PROTOCOL_VERSION} " in answer.fields[0]
    assert await is_closed(older)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: daemon\r\n\r\n",
        bytes(100),
        b"\xff" * (1 << 20),
        b"".join(wire.encode_request(STAT, 1, StatRequest(b"/", 0))),
        wire.HEADER.pack(100_000, 0, 0, HELLO.code, wire.REQUEST, 0) + bytes(100),
        call().greeting[:6] + b"\0" + call().greeting[7:],
        call().greeting[:6] + b"\4" + call().greeting[7:],
        call().greeting[:7] + b"\1" + call().greeting[8:],
        call().greeting + b"\xff" * (1 << 20),
    ],
    ids=["http", "zeros", "ones", "no-greeting", "long-hello", "role-0", "role-4", "flags", "oversized"],
)
def test_garbage_is_closed_and_the_daemon_serves_on(garbage: bytes, tmp_path: Path) -> None:
    @with_daemon
    async def test(address: DaemonAddress) -> None:
        raw = Raw(address)
        try:
            await raw.send([garbage])
        except (BrokenPipeError, ConnectionResetError):
            raw.close()
        else:
            await end_of(raw)
        await serves(address)

    test(tmp_path)


@pytest.mark.parametrize(
    "first",
    [
        b"\xc1abcd",
        wire._packb([]),
        wire._packb([5]),
        wire._packb(["x", 1]),
    ],
)
def test_a_hello_that_is_none_is_closed(first: bytes, tmp_path: Path) -> None:
    @with_daemon
    async def test(address: DaemonAddress) -> None:
        raw = Raw(address)
        await raw.prove()
        await raw.send([wire.HEADER.pack(len(first), 0, 0, HELLO.code, wire.REQUEST, 0) + first])
        assert await is_closed(raw)
        await serves(address)

    test(tmp_path)


@with_daemon
async def test_a_handshake_cut_short_anywhere_is_closed(address: DaemonAddress) -> None:
    for length in range(GREETING_BYTES + PROOF_BYTES):
        raw, mine = Raw(address), call()
        await raw.send([mine.greeting[:length]])
        if length > GREETING_BYTES:
            proof = mine.prove(await raw.take(ANSWER_BYTES))
            await raw.send([proof[: length - GREETING_BYTES]])
        raw.socket.shutdown(socket.SHUT_WR)
        await end_of(raw)
    await serves(address)


@pytest.mark.parametrize("said", ["nothing", "half", "greeting", "proof"])
def test_who_falls_silent_is_dropped(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gate_module, connection_module):
        monkeypatch.setattr(module, "HANDSHAKE_TIMEOUT_S", 0.2)

    @with_daemon
    async def test(address: DaemonAddress) -> None:
        raw, mine = Raw(address), call()
        if said == "half":
            await raw.send([mine.greeting[:40]])
        elif said != "nothing":
            answer = await raw.answer(mine.greeting)
            if said == "proof":
                await raw.send([mine.prove(answer)])
        with trio.fail_after(2):
            assert await end_of(raw) == b""

    test(tmp_path)


# --- many


def test_of_too_many_unproved_connections_the_oldest_of_the_busiest_address_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "HANDSHAKES_MAX", 8)

    @with_daemon
    async def test(address: DaemonAddress) -> None:
        other = Raw(address)  # by Unix socket: another address
        await trio.sleep(0.05)
        silent = [Raw(address, tcp=True) for _ in range(30)]
        with trio.fail_after(2):  # far below what a silent one has
            for raw in silent[:22]:
                assert await end_of(raw) == b""
            mine = call()
            await other.send([mine.prove(await other.answer(mine.greeting))])
            late = Raw(address, tcp=True)
            await late.hello(b"d" * 16)
        for raw in (*silent, other, late):
            raw.close()

    test(tmp_path)


def test_ten_thousand_refusals_are_a_few_lines_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()

    async def main() -> None:
        for number in range(10_000):
            refusals.note(Caller("10.0.0.1", f"10.0.0.1:{number}"), "does not have the key")
        assert len(caplog.records) == REFUSALS_LOGGED_OF_ONE
        for number in range(10_000):
            refusals.note(Caller(f"fe80::{number:x}", f"fe80::{number:x}:1"), "does not have the key")
        assert len(caplog.records) == REFUSALS_LOGGED
        refusals.tell_rest()

    with caplog.at_level(logging.WARNING):
        trio.run(main)
    assert caplog.records[0].getMessage() == "refused 10.0.0.1:0: does not have the key"
    rest = 20_000 - REFUSALS_LOGGED
    assert f"refused {rest} more callers, from " in caplog.messages[-1]
    assert len(caplog.records) == REFUSALS_LOGGED + 1


def test_the_next_minute_has_lines_again(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()

    async def main() -> None:
        for _ in range(2):
            for number in range(5):
                refusals.note(Caller("10.0.0.1", f"10.0.0.1:{number}"), "does not have the key")
            await trio.sleep(REFUSALS_WINDOW_S)

    with caplog.at_level(logging.WARNING):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    once = [f"refused 10.0.0.1:{n}: does not have the key" for n in range(REFUSALS_LOGGED_OF_ONE)]
    more = 5 - REFUSALS_LOGGED_OF_ONE
    assert caplog.messages == [
        *once,
        f"refused {more} more callers, from 1 addresses, {more} of them from 10.0.0.1",
        *once,
    ]


# --- who answers in a daemon's place


@pytest.mark.parametrize("does", ["replays", "guesses", "echoes"])
def test_a_caller_tells_who_has_not_the_key_nothing(does: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with daemon(tmp_path) as address:
            raw = Raw(address)
            recorded = await raw.answer(call().greeting)
            raw.close()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        fake = DaemonAddress(0, "here", f"tcp://127.0.0.1:{listener.getsockname()[1]}", "-")
        heard = []

        async def answer() -> None:
            await trio.lowlevel.wait_readable(listener.fileno())
            stranger = Raw.__new__(Raw)
            stranger.socket = listener.accept()[0]
            stranger.socket.setblocking(False)
            greeting = await stranger.take(GREETING_BYTES)
            guess = recorded[:-PROOF_BYTES] + os.urandom(PROOF_BYTES)
            echo = recorded[:HEAD_BYTES] + greeting[NONCE] + greeting[NONCE]
            await stranger.send([{"replays": recorded, "guesses": guess, "echoes": echo}[does]])
            heard.append(await end_of(stranger))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            with pytest.raises(GkfsError, match="somebody else answers there") as caught:
                await transport.open_connection(fake, ACCESS, CLIENT, "client")
        assert caught.value.status == ExitStatus.ACCESS
        assert heard == [b""]
        listener.close()

    trio.run(main)
