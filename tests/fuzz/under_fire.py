"""A real daemon in a process of its own, and what is fired at it over its real sockets.

The handshake is the product's own (`handshake`, the only place that knows of it).
"""

import contextlib
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from stat import S_IFDIR, S_IFLNK, S_IFREG
from typing import Final, NamedTuple

import trio

from benchmarks import program
from gkfs import hostfile, metadentry, transport
from gkfs.audit_messages import AuditStoreRequest
from gkfs.commands import hostfiles, survey
from gkfs.commands.control import Conversation
from gkfs.daemon.faults import Kind
from gkfs.errors import GkfsError
from gkfs.hostfile import DaemonAddress
from gkfs.limits import CHUNK_SIZE_BYTES, START_TIMEOUT_S
from gkfs.messages import (
    CreateRequest,
    Empty,
    ExtendRequest,
    OutgrowRequest,
    StatusReply,
    WriteChunkRequest,
    WriteInlineRequest,
)
from gkfs.operations import AUDIT_STORE, CREATE, EXTEND, OUTGROW, STATUS, WRITE_CHUNK, WRITE_INLINE
from tests.daemon.raw import ACCESS, FSID, KEY
from tests.fuzz.frames import Frames

# The most a daemon may take whatever it is sent: 96 MiB of memtables, 64 MiB of cache, replies kept, and some.
RSS_MAX_BYTES: Final = 700 << 20
ANSWER_S: Final = 30.0
_POOL: Final = 4000  # frames made before they are sent over and over, with new numbers
_BATCH: Final = 256
_SEND_S: Final = 30.0
_SEQ: Final = slice(8, 16)  # in a header
# What a client that holds the key may do by well-formed requests that no mount would send: entries without
# directory, chunks without file, link counts and sizes as it pleases. Records, indexes and counts stay sound.
BY_RIGHT: Final = frozenset(
    {Kind.PARENT, Kind.GARBAGE, Kind.LINKS, Kind.SIZE, Kind.BEYOND, Kind.TARGET, Kind.OVERLONG, Kind.HOLDER}
)


class Fired(NamedTuple):
    """What was sent in one go."""

    frames: int
    connections: int


class Daemon:
    """One daemon of a file system of one, in *folder*."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hostfile = folder / "hosts"
        self.log = folder / "log"
        if not self.hostfile.exists():
            hostfiles.create(self.hostfile, FSID, 1, KEY)
        command = [sys.executable, "-m", "gkfs", "daemon", "-i", "0", "-r", str(folder), "-H", str(self.hostfile)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "-l", "tcp://127.0.0.1:0", "--die-with", str(os.getpid())],
                stdout=log,
                stderr=log,
                env=os.environ | program.ENVIRONMENT,
            )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.address = self._address()
                self.status()
                return
            except (GkfsError, KeyError) as error:
                if time.monotonic() > deadline_s or self.process.poll() is not None:
                    self.process.kill()
                    raise AssertionError(f"the daemon does not start: {self.log.read_text()}") from error
            time.sleep(0.05)

    def _address(self) -> DaemonAddress:
        return hostfile.read(self.hostfile).daemons[0]

    def check(self) -> StatusReply:
        """That it lives, has not grown, has met nothing unexpected, and answers; its status."""
        assert self.process.poll() is None, f"the daemon has ended with {self.process.returncode}:\n{self.tail()}"
        assert self.rss_bytes() <= RSS_MAX_BYTES, f"the daemon has {self.rss_bytes() >> 20} MiB"
        text = self.log.read_text(errors="replace")
        assert "Traceback" not in text, text[max(0, text.index("Traceback") - 500) :][:5000]
        return self.status()

    def status(self) -> StatusReply:
        """What it says of itself."""

        async def ask() -> StatusReply:
            conversation = await Conversation.begin(self._address(), ACCESS)
            try:
                return await conversation.ask(STATUS, Empty(), ANSWER_S)
            finally:
                conversation.close()

        return trio.run(ask)

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:]

    def rss_bytes(self) -> int:
        """The memory it has now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def end(self) -> None:
        """Stop it; it does so by itself."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            assert self.process.wait(60) == 0, self.tail()
        finally:
            self.process.kill()
            self.process.wait()

    def snapshot(self) -> str:
        """A digest of everything it stores: all tables of the metadata, all chunk files."""
        digest = hashlib.sha256()

        async def read() -> None:
            conversation = await Conversation.begin(self.address, ACCESS)
            first, more = b"\0", True
            while more:
                page = await conversation.ask(AUDIT_STORE, AuditStoreRequest(first, b"\xff"), ANSWER_S)
                digest.update(repr((page.keys, page.values)).encode())
                more = page.more
                first = page.keys[-1] + b"\0" if page.keys else b""
            conversation.close()

        trio.run(read)
        for path in sorted((self.folder / "daemon-0" / "chunks").rglob("*")):
            digest.update(os.fsencode(path.name) + (path.read_bytes() if path.is_file() else b""))
        return digest.hexdigest()

    def check_faults(self) -> None:
        """That fsck finds nothing but what a client may do by right, and mends that."""
        hosts = hostfile.read(self.hostfile)
        found = survey.check(hosts, repair=True)
        wrong = [fault for fault in found.faults if fault.kind not in BY_RIGHT]
        assert not wrong, "\n".join(map(str, wrong[:20]))
        assert not [fault for fault in found.remaining if fault.kind not in BY_RIGHT]


@contextlib.contextmanager
def daemon(folder: Path) -> Iterator[Daemon]:
    """A daemon that ends with the block, by SIGTERM and with status 0."""
    running = Daemon(folder)
    try:
        yield running
    except BaseException:
        running.process.kill()
        running.process.wait()
        raise
    running.end()


async def handshake(target: Daemon, role: str, client_id: bytes) -> socket.socket:
    """A connection on which requests may be sent; as every client makes it."""
    connection, _ = await transport.open_connection(target.address, ACCESS, client_id, role)
    return connection


def plant_tree(target: Daemon) -> None:
    """A small known tree: directories, a link, data in records and in chunks."""

    async def plant() -> None:
        conversation = await Conversation.begin(target.address, ACCESS)
        ask = conversation.ask
        now_ns = time.time_ns()
        for path, mode, goal in (
            (b"/d1", S_IFDIR | 0o755, b""),
            (b"/d1/a", S_IFREG | 0o644, b""),
            (b"/a", S_IFREG | 0o644, b""),
            (b"/b", S_IFLNK | 0o777, b"/d1/a"),
        ):
            await ask(CREATE, CreateRequest(path, 0, mode, 1, 2, 0, True, goal, now_ns))
        await ask(WRITE_INLINE, WriteInlineRequest(b"/d1/a", 0, 0, now_ns, False, b"small" * 100))
        record = (await ask(OUTGROW, OutgrowRequest(b"/a", 0, 0))).record
        fid = metadentry.fid_of(record)
        for chunk in range(3):
            data = random.Random(chunk).randbytes(CHUNK_SIZE_BYTES)
            await ask(WRITE_CHUNK, WriteChunkRequest(fid, chunk, 0, data))
        await ask(EXTEND, ExtendRequest(b"/a", fid, 3 * CHUNK_SIZE_BYTES, now_ns, False, False))
        conversation.close()

    trio.run(plant)


# --- fire


def fire_as_stranger(target: Daemon, frames: int, seed: int) -> Fired:
    """Send *frames* on connections that have done no handshake; the daemon closes each at its first bytes."""
    choose = random.Random(seed)
    source = Frames(choose)
    pool = [source.request(n) for n in range(_POOL // 4)]
    sent = connections = 0
    while sent < frames:
        batch = [choose.choice(pool) for _ in range(_BATCH)]
        batch[0] = choose.choice((batch[0], source.mutated(batch[0]), source.noise()))
        connections += 1
        with socket.socket(socket.AF_UNIX) as stranger, contextlib.suppress(OSError):
            stranger.connect(str(transport.unix_path(target.address.unix)))
            stranger.settimeout(_SEND_S)
            stranger.sendall(b"".join(batch))
            stranger.shutdown(socket.SHUT_WR)
            answer = stranger.recv(4096)
            # Nothing but the refusal of another version or file system, which is an answer to a HELLO.
            assert not answer or answer[16] == 1, answer.hex()
        sent += len(batch)
    return Fired(sent, connections)


def fire_as_peer(target: Daemon, frames: int, seed: int, role: str) -> Fired:
    """Send *frames* on connections with a handshake in *role*: well-typed ones, one in many mutated."""
    return trio.run(_fire_as_peer, target, frames, seed, role)


async def _fire_as_peer(target: Daemon, frames: int, seed: int, role: str) -> Fired:
    choose = random.Random(seed)
    source = Frames(choose, role)
    clients = [choose.randbytes(16) for _ in range(4)]
    pool: list[bytes] = []
    sent = connections = seq = 0
    while sent < frames:
        if len(pool) < _POOL:
            pool += [source.request(0) for _ in range(_POOL)]
        connection = await handshake(target, role, choose.choice(clients))
        connections += 1
        try:
            for _ in range(choose.choice((1, 4, 16))):
                batch = choose.choices(pool, k=_BATCH)
                data = bytearray()
                for frame in batch:
                    seq += 1
                    data += frame[: _SEQ.start] + seq.to_bytes(8, "little") + frame[_SEQ.stop :]
                sent += len(batch)
                if not await _exchange(connection, bytes(data)):
                    break
            data = bytearray(b"".join(source.mutated(choose.choice(pool)) for _ in range(3)))
            sent += 3
            await _exchange(connection, bytes(data))
        finally:
            trio.lowlevel.notify_closing(connection.fileno())
            connection.close()
        for _ in range(100):
            pool[choose.randrange(len(pool))] = source.request(0)
    return Fired(sent, connections)


async def _exchange(connection: socket.socket, data: bytes) -> bool:
    """Send *data* and take what comes meanwhile; whether the daemon still listens."""
    buffer = bytearray(1 << 20)
    view = memoryview(data)
    with trio.move_on_after(_SEND_S):
        while view:
            try:
                view = view[connection.send(view) :]
            except BlockingIOError:
                with trio.move_on_after(0.05):
                    await trio.lowlevel.wait_writable(connection.fileno())
            except OSError:
                return False
            try:
                while connection.recv_into(buffer):
                    pass
                return False
            except BlockingIOError:
                await trio.lowlevel.checkpoint()
            except OSError:
                return False
        return True
    raise AssertionError(f"the daemon has taken nothing for {_SEND_S:.0f} s")
