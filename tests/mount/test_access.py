"""Another user of this machine, with the hostfile but not the key: nothing read, nothing changed, no harm done.

ACCESS_ATTEMPTS sets how many connections that user makes (10,000; a tenth to an embedded daemon or in TLS).
"""

import os
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from errno import EACCES, EPERM, EPROTONOSUPPORT
from itertools import cycle
from pathlib import Path
from stat import S_IFREG
from typing import Final

import pytest

from gkfs import hostfile, keyfile, tls, transport, wire
from gkfs.commands import control
from gkfs.errors import ExitStatus, GkfsError
from gkfs.handshake import ANSWER_BYTES, Call
from gkfs.hostfile import DaemonAddress
from gkfs.keyfile import PROOF_BYTES, Access, Key
from gkfs.limits import PROTOCOL_VERSION
from gkfs.messages import CreateRequest, Empty, HelloRequest, UnlinkRequest
from gkfs.operations import CREATE, HELLO, SHUTDOWN, UNLINK
from tests.mount.conftest import Cluster, close_file_system, open_file_system
from tests.mount.file_system import FileSystem, wait_until
from tests.users import as_other_user, begin_as_other_user

_ATTEMPTS: Final = int(os.environ.get("ACCESS_ATTEMPTS", "10000"))
_LEFT_OPEN: Final = 200
_CLIENT: Final = bytes(16)
_LONGEST_CALL_S: Final = 10.0  # of the owner meanwhile, on a busy machine
_GROWTH_BYTES: Final = 32 << 20
_LOG_LINES: Final = 50  # of all daemons; a line for each attempt would be many more
_OPEN_FILES: Final = 20  # that a daemon opens for work of its own
_SECRET: Final = b"secret" * 10_000

_IN_TLS: Final = ("wrong", "guess", "garbage", "mirror")  # the others do not speak it

_BEHIND: Final = b"".join(  # a proof that is none
    [
        *wire.encode_request(HELLO, 0, HelloRequest("x")),
        *wire.encode_request(CREATE, 1, CreateRequest(b"/planted", 1, S_IFREG | 0o644, 1, 2, 0, True, b"", 1)),
        *wire.encode_request(UNLINK, 2, UnlinkRequest(b"/secret", 0, 0, 1)),
        *wire.encode_request(SHUTDOWN, 3, Empty()),
    ]
)


@pytest.fixture(params=["daemons", "embedded", "tls"])
def open_to_all(request: pytest.FixtureRequest, open_folder: Path) -> Iterator[FileSystem]:
    """A mounted file system in a folder that everybody may enter, with a hostfile that everybody may read."""
    embedded, in_tls = request.param == "embedded", request.param == "tls"
    file_system = open_file_system(open_folder / "gkfs", 2, 1, embedded=embedded, tls=in_tls)
    file_system.hostfile.chmod(0o644)
    (file_system.mounts[0] / "secret").write_bytes(_SECRET)
    yield file_system
    problems = close_file_system(file_system)
    if problems:
        pytest.fail("\n".join(problems))


def _errno(path: Path) -> int:
    try:
        os.listdir(path)
    except OSError as error:
        return error.errno or 254
    return 0


def test_a_mount_is_its_owners_alone(open_to_all: FileSystem) -> None:
    mountdir = open_to_all.mounts[0]
    mountdir.chmod(0o777)
    assert as_other_user(lambda: _errno(mountdir)) == EACCES
    shared = open_to_all.mount("--allow-other")
    assert as_other_user(lambda: _errno(shared)) == 0
    (shared / "secret").chmod(0o600)  # and there modes hold
    (shared / "private").mkdir(0o700)
    assert as_other_user(lambda: _errno(shared / "private")) == EACCES

    def change() -> int:
        try:
            (shared / "secret").chmod(0o644)
        except PermissionError as error:
            return error.errno or 254
        return 0

    assert as_other_user(change) == EPERM
    assert as_other_user(lambda: os.access(shared / "secret", os.R_OK)) == 0


# --- what the other user does


def _use_the_verbs(hosts: Path) -> None:
    known = hostfile.read_addresses(hosts)
    with pytest.raises(GkfsError, match=f"no key for file system {known.fsid}: .*Permission denied") as caught:
        hostfile.read(hosts)
    assert caught.value.status == ExitStatus.ACCESS
    with tempfile.TemporaryDirectory() as own:  # a copy of the hostfile, with a key of the own making
        (Path(own) / "hosts").write_text(hosts.read_text())
        keyfile.make(Path(own) / "hosts", known.fsid)
        guessed = hostfile.read(Path(own) / "hosts")
        for outcomes in (control.statuses(guessed), control.stop(guessed, time.monotonic() + 5)):
            assert {getattr(outcome, "status", None) for outcome in outcomes.values()} == {ExitStatus.ACCESS}


def _connect(address: DaemonAddress, *, in_tls: bool) -> socket.socket:
    connection = socket.create_connection(transport.tcp_address(address.tcp))
    connection.settimeout(20)
    if in_tls:
        connection = tls.call(connection)
        connection.do_handshake()
    return connection


def _take(connection: socket.socket, count: int) -> bytes:
    """*count* bytes, or what came before the end."""
    data = b""
    try:
        while len(data) < count and (piece := connection.recv(count - len(data))):
            data += piece
    except ConnectionResetError:
        pass
    return data


def _attempt(kind: str, address: DaemonAddress, access: Access) -> socket.socket | None:
    """One connection; the socket if it stays open. What comes is an answer, and nothing after it."""
    connection = _connect(address, in_tls=access.tls and kind in _IN_TLS)
    call = Call(access, address.daemon, os.urandom(16), "control", "the daemon")
    if kind == "silent":
        return connection
    with connection:
        if access.tls and kind not in _IN_TLS:
            connection.sendall(_BEHIND if kind == "before" else call.greeting)
            refusal = struct.pack("<4sHH", b"gkfs", PROTOCOL_VERSION, EPROTONOSUPPORT)
            assert _take(connection, 1000) == refusal
        elif kind == "garbage":
            connection.sendall(os.urandom(100))
            assert _take(connection, 1000) == b""
        elif kind == "before":
            connection.sendall(_BEHIND)
            assert _take(connection, 1000)[16:18] == struct.pack("BB", HELLO.code, wire.REPLY)
        elif kind == "half":
            connection.sendall(call.greeting[: os.urandom(1)[0] % len(call.greeting)])
        else:
            connection.sendall(call.greeting)
            answer = _take(connection, ANSWER_BYTES)
            proof = {"guess": os.urandom(PROOF_BYTES), "mirror": answer[-PROOF_BYTES:], "wrong": None}[kind]
            if proof is None:
                binding = connection.binding if isinstance(connection, tls.TlsSocket) else b""
                text = call.greeting + answer[:-PROOF_BYTES] + binding
                proof = access.key.proof(b"gkfs: proof of the caller\0" + text)
            connection.sendall(proof + _BEHIND)
            assert _take(connection, 1000) == b""
    return None


def _attack(hosts: Path, attempts: int) -> int:
    _use_the_verbs(hosts)
    known = hostfile.read_addresses(hosts)
    for address in known.daemons.values():
        with socket.socket(socket.AF_UNIX) as connection:
            assert connection.connect_ex(str(transport.unix_path(address.unix))) == EACCES
    left_open = []
    kinds = cycle(("wrong", "guess", "garbage", "half", "silent", "mirror", "before"))
    for number, kind in zip(range(attempts), kinds, strict=False):
        address = known.daemons[number % known.daemon_count]
        stays = _attempt(kind, address, Access(known.fsid, Key.fresh(), known.features.tls))
        if stays is not None:
            left_open.append(stays)
        if len(left_open) > _LEFT_OPEN:
            left_open.pop(0).close()
    return 0


# --- and what its owner notices


def _memory_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"process {pid} has no memory")


def _open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _work(mountdir: Path, ended: threading.Event) -> float:
    """Work in the mount until the other user is done; the longest turn, in seconds."""
    longest_s = 0.0
    path, data = mountdir / "own", b"own" * 10_000
    while not ended.is_set():
        begun_s = time.perf_counter()
        path.write_bytes(data)
        assert path.read_bytes() == data
        path.unlink()
        longest_s = max(longest_s, time.perf_counter() - begun_s)
    return longest_s


def _log_lines(file_system: FileSystem) -> int:
    return sum(len(log.read_text().splitlines()) for log in file_system.logs())


@pytest.mark.limit_s(600)
def test_another_user_with_the_hostfile_gets_nothing_and_harms_nobody(open_to_all: FileSystem) -> None:
    mountdir, pids = open_to_all.mounts[0], open_to_all.daemon_pids()
    before = [(_memory_bytes(pid), _open_files(pid)) for pid in pids]
    lines = _log_lines(open_to_all)
    counted = open_to_all.status()
    begun_s = time.perf_counter()
    attempts = _ATTEMPTS // 10 if open_to_all.embedded or open_to_all.tls else _ATTEMPTS
    wait = begin_as_other_user(lambda: _attack(open_to_all.hostfile, attempts))
    ended = threading.Event()
    statuses: list[int] = []

    def until_it_ends() -> None:
        statuses.append(wait())
        ended.set()

    waiter = threading.Thread(target=until_it_ends)
    waiter.start()
    longest_s = _work(mountdir, ended)
    waiter.join()
    duration_s = time.perf_counter() - begun_s
    lines = _log_lines(open_to_all) - lines
    wait_until(
        lambda: all(_open_files(pid) < files + _OPEN_FILES for pid, (_, files) in zip(pids, before, strict=True)),
        "the daemons have closed what the last attempts left open",
    )
    after = [(_memory_bytes(pid), _open_files(pid)) for pid in pids]
    print(
        f"{attempts} attempts, {duration_s:.1f} s; longest turn meanwhile {longest_s * 1e3:.0f} ms; {lines} lines"
    )
    print(f"memory and descriptors before: {before}, after: {after}")
    assert statuses == [0]
    assert open_to_all.daemon_pids() == pids
    assert longest_s < _LONGEST_CALL_S
    assert lines < _LOG_LINES
    for (bytes_before, _), (bytes_after, _) in zip(before, after, strict=True):
        assert bytes_after - bytes_before < _GROWTH_BYTES
    assert os.listdir(mountdir) == ["secret"]
    assert (mountdir / "secret").read_bytes() == _SECRET
    assert open_to_all.status()["files"] == counted["files"]


def test_a_new_start_has_another_key_and_mounts_learn_it(cluster: Cluster) -> None:
    file_system = cluster(2)
    (file_system.mounts[0] / "file").write_bytes(_SECRET)
    first = hostfile.read(file_system.hostfile).access
    file_system.kill_daemons()
    file_system.start()
    second = hostfile.read(file_system.hostfile).access
    assert first.fsid == second.fsid
    assert first.key.proof(b"") != second.key.proof(b"")
    assert (file_system.mounts[0] / "file").read_bytes() == _SECRET
    outcomes = control.statuses(hostfile.read(file_system.hostfile)._replace(key=first.key))
    assert {getattr(outcome, "status", None) for outcome in outcomes.values()} == {ExitStatus.ACCESS}
