"""A socket in TLS, used as the hot paths use a plain one."""

import random
import select
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gkfs import tls
from gkfs.errors import ExitStatus, GkfsError
from gkfs.tls import Certificate, TlsSocket

Pair = tuple[TlsSocket, TlsSocket]


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    return Certificate()


def connected() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection whose buffers are small; the one that called comes first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        calls = socket.create_connection(listener.getsockname())
        called, _ = listener.accept()
    for end in (calls, called):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
        end.setblocking(False)
    return calls, called


@pytest.fixture
def pair(certificate: Certificate) -> Iterator[Pair]:
    calls, called = connected()
    ends = tls.call(calls), certificate.answer(called)
    shake_hands(*ends)
    yield ends
    for end in ends:
        end.close()


def shake_hands(calls: TlsSocket, called: TlsSocket) -> None:
    deadline_s = time.monotonic() + 60
    while [calls.step(), called.step()] != ["", ""]:
        assert time.monotonic() < deadline_s


def take(end: TlsSocket, count: int) -> bytes:
    """*count* bytes, as who waits with select gets them."""
    data = bytearray()
    while len(data) < count:
        assert end.pending() or select.select([end], [], [], 60)[0], f"{len(data)} of {count} bytes have come"
        buffer = bytearray(min(count - len(data), 1 << 20))
        try:
            data += buffer[: end.recv_into(buffer)]
        except BlockingIOError:
            continue
    return bytes(data)


@pytest.mark.parametrize("seed", range(5))
def test_pieces_of_all_sizes_arrive_in_order_however_slowly_they_are_taken(seed: int, pair: Pair) -> None:
    choices, (sends, receives) = random.Random(seed), pair
    sizes = [choices.choice([1, 20, 60, 4000, 16383, 16384, 16385, 100_000, 1 << 20]) for _ in range(40)]
    pieces = [memoryview(choices.randbytes(size)) for size in sizes]
    whole = b"".join(pieces)
    queue, refused = pieces[:3], 0
    later = pieces[3:]
    got = bytearray()
    while len(got) < len(whole):
        try:
            sent = 0
            if queue:
                sent = sends.send(queue[0]) if choices.random() < 0.3 else sends.sendmsg(queue)
        except BlockingIOError:
            refused += 1
        while queue and sent >= len(queue[0]):
            sent -= len(queue.pop(0))
        if queue:
            queue[0] = queue[0][sent:]
        queue += later[:2]  # more comes while some waits
        del later[:2]
        buffer = bytearray(choices.choice([7, 5000, 1 << 20]))
        try:
            got += buffer[: receives.recv_into(buffer)]
        except BlockingIOError:
            time.sleep(0.0001)
    assert bytes(got) == whole
    assert refused


def test_what_select_does_not_tell_of_is_pending(pair: Pair) -> None:
    sends, receives = pair
    sends.send(bytes(range(200)))
    assert select.select([receives], [], [], 60)[0]
    buffer = bytearray(50)
    assert receives.recv_into(buffer) == 50
    assert receives.pending() == 150
    assert not select.select([receives], [], [], 0.05)[0]
    assert take(receives, 150) == bytes(range(50, 200))
    with pytest.raises(BlockingIOError):
        receives.recv_into(buffer)
    with pytest.raises(BlockingIOError):
        receives.recv(50)


def test_short_pieces_leave_in_one_record(pair: Pair) -> None:
    sends, receives = pair
    assert sends.sendmsg([b"head", b"body", bytes(1000)]) == 1008
    assert select.select([receives], [], [], 60)[0]
    assert receives.recv(4) == b"head"
    assert receives.pending() == 1004


def test_an_end_is_an_end_after_what_came_before(pair: Pair) -> None:
    sends, receives = pair
    sends.send(b"last")
    sends.close()
    assert take(receives, 4) == b"last"
    assert select.select([receives], [], [], 60)[0]
    assert receives.recv_into(bytearray(10)) == 0


def test_both_ends_have_the_hash_of_the_same_certificate(pair: Pair, certificate: Certificate) -> None:
    calls, called = pair
    assert calls.binding == called.binding
    assert len(calls.binding) == 32
    assert calls.version() == "TLSv1.3"
    ends = connected()
    others = tls.call(ends[0]), Certificate().answer(ends[1])
    shake_hands(*others)
    assert others[0].binding == others[1].binding != calls.binding
    for end in others:
        end.close()


def test_what_comes_without_tls_is_never_taken_for_data(pair: Pair) -> None:
    sends, receives = pair
    socket.socket.send(sends, b"plain" * 100)
    assert select.select([receives], [], [], 60)[0]
    receives.shutdown(socket.SHUT_RDWR)  # which takes no TLS off
    with pytest.raises(ssl.SSLError):
        receives.recv_into(bytearray(100))


@pytest.mark.parametrize("changed", [0, 5, 30, -1])
def test_a_changed_byte_is_found(changed: int, certificate: Certificate) -> None:
    ends = connected()
    (left, between), (relayed, right) = ends, connected()
    calls, called = tls.call(left), certificate.answer(right)

    def carry(source: socket.socket, target: socket.socket, spoil: bool = False) -> None:
        data = bytearray(source.recv(1 << 16))
        if spoil:
            data[changed] ^= 1
        target.sendall(data)

    pending = True
    while pending:
        pending = bool(calls.step()) | bool(called.step())
        for source, target in ((between, relayed), (relayed, between)):
            if select.select([source], [], [], 0.05)[0]:
                carry(source, target)
    calls.send(b"data" * 100)
    assert select.select([between], [], [], 60)[0]
    carry(between, relayed, spoil=True)
    assert select.select([called], [], [], 60)[0]
    with pytest.raises(
        (ssl.SSLError, BlockingIOError)
    ):  # the latter: it seems to be longer, the rest is waited for
        called.recv_into(bytearray(1000))
    for end in (calls, called, between, relayed):
        end.close()


def test_older_versions_are_not_spoken(certificate: Certificate) -> None:
    plain, called = connected()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    calls = context.wrap_socket(plain, do_handshake_on_connect=False)
    answers = certificate.answer(called)
    with pytest.raises(ssl.SSLWantReadError):
        calls.do_handshake()
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        answers.step()
    calls.close()
    answers.close()


def test_the_private_key_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    asked: list[str] = []
    run = subprocess.run

    def watched(arguments: tuple[str, ...], **options: Any) -> Any:
        asked.extend(arguments)
        return run(arguments, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    Certificate()
    assert asked[asked.index("-keyout") + 1] == "/dev/stdout"
    assert "-out" not in asked
    assert list(tmp_path.iterdir()) == []


def test_without_openssl_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(GkfsError, match=r"^no certificate for --tls: the program openssl is missing") as caught:
        Certificate()
    assert caught.value.status == ExitStatus.ACCESS


def test_an_openssl_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "openssl"
    for text, reason in (("echo 'bad curve' >&2; exit 3", "bad curve"), ("exit 0", "openssl fails: 0")):
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        with pytest.raises(GkfsError, match=reason):
            Certificate()
