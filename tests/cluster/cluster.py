"""Several daemons in one process, with real stores and sockets, and a client that calls them.

`@in_cluster(4)` makes a test of `async def test(cluster)`; afterwards what they have stored is checked, as
`gkfs fsck` does, and all are stopped.
"""

import errno
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IFDIR, S_IFREG, S_ISLNK

import pytest
import trio

from gkfs import hostfile, metadentry
from gkfs.commands import survey
from gkfs.commands.survey import Report
from gkfs.daemon import agreement, background, failover, leading, mirror, opens, peers
from gkfs.daemon.faults import Fault, Kind
from gkfs.daemon.peers import Peer
from gkfs.daemon.server import DaemonSettings, Serving, serve
from gkfs.distributor import Distributor
from gkfs.errors import GkfsError
from gkfs.hostfile import DaemonAddress, Features
from gkfs.limits import CHUNK_SIZE_BYTES, REPLICAS_DAEMONS_LEAST
from gkfs.messages import (
    CreateRequest,
    DetachRequest,
    Empty,
    ExtendRequest,
    LinkRequest,
    LookupRequest,
    OutgrowRequest,
    ReadChunkRequest,
    ReaddirRequest,
    RenameReply,
    RenameRequest,
    RmdirRequest,
    StatRequest,
    StatusReply,
    TruncateRequest,
    UnlinkReply,
    UnlinkRequest,
    WriteChunkRequest,
)
from gkfs.metadentry import Metadentry
from gkfs.operations import (
    CREATE,
    DETACH,
    EXTEND,
    LINK,
    LOOKUP,
    OUTGROW,
    READ_CHUNK,
    READDIR,
    RENAME,
    RMDIR,
    STAT,
    STATUS,
    TRUNCATE,
    UNLINK,
    WRITE_CHUNK,
    Operation,
    Q,
    R,
)
from gkfs.paths import inode_address
from tests.hosts import write_hosts

FSID = "5f0c6f6d1c2b4b0e9a51d6c2c3f0a911"
CALL_TIMEOUT_S = 60.0
TEST_TIMEOUT_S = 180.0
RETRY_S = 0.05  # daemons come back sooner than in life
GRACE_S = 0.2  # and files without name go sooner
REPLICAS = int(os.environ.get("GKFS_TEST_REPLICAS", "1"))  # where a test does not say
SILENCE_S = 1.0  # and it is told sooner that one is gone
SETTLE_S = 0.05  # and no client publishes anything late


class Client:
    """One mount, as far as the daemons can tell."""

    def __init__(self, cluster: "Cluster") -> None:
        self.cluster = cluster
        self.client_id = os.urandom(16)
        self._peers: dict[int, Peer] = {}

    async def call(
        self, daemon: int, operation: Operation[Q, R], request: Q, timeout_s: float = CALL_TIMEOUT_S
    ) -> R:
        return await self.peer(daemon).call(operation, request, timeout_s)

    def peer(self, daemon: int) -> Peer:
        """The connection to *daemon*, made when first used."""
        if daemon not in self._peers:

            async def locate() -> DaemonAddress:
                found = hostfile.read(self.cluster.hostfile).daemons
                if daemon not in found:
                    raise GkfsError(f"daemon {daemon} has not started")
                return found[daemon]

            peer = Peer(f"daemon {daemon}", locate, self.cluster.access, self.client_id, "client")
            self._peers[daemon] = peer
            self.cluster.nursery.start_soon(peer.run)
        return self._peers[daemon]

    def owner(self, path: bytes) -> int:
        return self.cluster.distributor.path_owner(path)

    async def stat(self, path: bytes, fid: int = 0) -> Metadentry:
        reply = await self.call(self.owner(path), STAT, StatRequest(path, fid))
        return metadentry.decode(reply.record)

    async def exists(self, path: bytes) -> bool:
        try:
            await self.stat(path)
        except FileNotFoundError:
            return False
        return True

    async def create(
        self,
        path: bytes,
        mode: int = S_IFREG | 0o644,
        parent_fid: int = 0,
        *,
        exclusive: bool = True,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Metadentry:
        request = create_request(path, mode, parent_fid, exclusive=exclusive)
        return metadentry.decode((await self.call(self.owner(path), CREATE, request, timeout_s)).record)

    async def mkdir(self, path: bytes, parent_fid: int = 0) -> Metadentry:
        return await self.create(path, S_IFDIR | 0o755, parent_fid)

    async def unlink(
        self, path: bytes, open_fid: int = 0, timeout_s: float = CALL_TIMEOUT_S, *, parent_fid: int = 0
    ) -> UnlinkReply:
        request = UnlinkRequest(path, parent_fid, open_fid, time.time_ns())
        return await self.call(self.owner(path), UNLINK, request, timeout_s)

    async def rmdir(self, path: bytes, timeout_s: float = CALL_TIMEOUT_S, *, parent_fid: int = 0) -> None:
        await self.call(self.owner(path), RMDIR, RmdirRequest(path, parent_fid, time.time_ns()), timeout_s)

    async def rename(
        self,
        source: bytes,
        target: bytes,
        *,
        source_parent_fid: int = 0,
        parent_fid: int = 0,
        flags: int = 0,
        open_fid: int = 0,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> RenameReply:
        now_ns = time.time_ns()
        request = RenameRequest(source, target, source_parent_fid, parent_fid, flags, open_fid, now_ns)
        return await self.call(self.owner(source), RENAME, request, timeout_s)

    async def detach(self, path: bytes, fid: int, timeout_s: float = CALL_TIMEOUT_S) -> None:
        await self.call(self.owner(path), DETACH, DetachRequest(path, fid), timeout_s)

    async def link(
        self, source: bytes, path: bytes, parent_fid: int = 0, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> Metadentry:
        """Both steps of a link(2); *source* may have several names already."""
        fid = metadentry.fid_of((await self.call(self.owner(source), LOOKUP, LookupRequest(source))).record)
        await self.detach(source, fid, timeout_s)
        request = LinkRequest(fid, path, parent_fid, time.time_ns())
        reply = await self.call(self.owner(inode_address(fid)), LINK, request, timeout_s)
        return metadentry.decode(reply.record)

    async def inode(self, fid: int) -> Metadentry:
        """The record of a file with several names."""
        return await self.stat(inode_address(fid), fid)

    async def listing(self, path: bytes, page: int = 1000, *, fid: int = 0) -> list[bytes]:
        names: list[bytes] = []
        for daemon in range(self.cluster.count):
            after, more = b"", True
            while more:
                reply = await self.call(daemon, READDIR, ReaddirRequest(path, fid, after, page))
                names += reply.names
                more = reply.more
                after = reply.names[-1] if reply.names else b""
        return sorted(names)

    async def write(self, path: bytes, entry: Metadentry, chunk: int, data: bytes, offset: int = 0) -> None:
        """Write within one chunk, of a file that has chunks from then on, and publish the size."""
        outgrown = await self.call(self.owner(path), OUTGROW, OutgrowRequest(path, entry.fid, 0))
        placement = metadentry.decode(outgrown.record).placement
        self.cluster.placements[entry.fid] = placement
        owner = self.cluster.distributor.chunk_owner(entry.fid, chunk, placement)
        await self.call(owner, WRITE_CHUNK, WriteChunkRequest(entry.fid, chunk, offset, data))
        size = chunk * CHUNK_SIZE_BYTES + offset + len(data)
        await self.call(
            self.owner(path), EXTEND, ExtendRequest(path, entry.fid, size, time.time_ns(), False, False)
        )

    async def truncate(self, path: bytes, size: int, *, fid: int = 0, known_size: int = 0) -> Metadentry:
        request = TruncateRequest(path, fid, size, known_size, time.time_ns())
        return metadentry.decode((await self.call(self.owner(path), TRUNCATE, request)).record)

    async def read(self, fid: int, chunk: int, offset: int = 0, length: int = CHUNK_SIZE_BYTES) -> bytes:
        owner = self.cluster.distributor.chunk_owner(fid, chunk, self.cluster.placements.get(fid, 0))
        return bytes((await self.call(owner, READ_CHUNK, ReadChunkRequest(fid, chunk, offset, length))).data)

    async def status(self, daemon: int) -> StatusReply:
        return await self.call(daemon, STATUS, Empty())


class Cluster:
    """The daemons of one file system and a first client."""

    def __init__(self, folder: Path, count: int, nursery: trio.Nursery, features: Features) -> None:
        self.folder = folder
        self.count = count
        self.nursery = nursery
        self.distributor = Distributor(count)
        self.hostfile = folder / "hosts"
        self.access = write_hosts(self.hostfile, FSID, count, features=features)
        self.client = Client(self)
        self.placements: dict[int, int] = {}  # of files written to, by fid
        self.expected_faults: set[Kind] = set()  # that the test has planted
        self._running: dict[int, tuple[trio.Event, trio.CancelScope, trio.Event]] = {}

    def settings(self, daemon: int) -> DaemonSettings:
        return DaemonSettings(self.folder / f"daemon-{daemon}", self.hostfile, daemon)

    async def start(self, *daemons: int) -> None:
        """Start the given daemons, or all; ready afterwards."""
        for daemon in daemons or range(self.count):
            stop, scope, ended = trio.Event(), trio.CancelScope(), trio.Event()
            self._running[daemon] = (stop, scope, ended)
            await self.nursery.start(self._serve, daemon, stop, scope, ended)

    async def _serve(
        self,
        daemon: int,
        stop: trio.Event,
        scope: trio.CancelScope,
        ended: trio.Event,
        task_status: "trio.TaskStatus[Serving]",
    ) -> None:
        try:
            with scope:
                await serve(self.settings(daemon), stop=stop, task_status=task_status)
        finally:
            ended.set()

    async def stop(self, *daemons: int) -> None:
        """Stop the given daemons, or all, as SIGTERM does."""
        for daemon in daemons or list(self._running):
            stop, _, ended = self._running.pop(daemon)
            stop.set()
            await ended.wait()

    async def crash(self, *daemons: int) -> None:
        """End the given daemons wherever they are: nothing is finished, no reply is sent any more."""
        for daemon in daemons:
            _, scope, ended = self._running.pop(daemon)
            scope.cancel()
            await ended.wait()

    def kill(self, daemon: int) -> None:
        """Begin what `crash` does, from within one of the daemon's own tasks; `ended` waits for the end."""
        self._running[daemon][1].cancel()

    def is_running(self, daemon: int) -> bool:
        return daemon in self._running and not self._running[daemon][1].cancel_called

    async def ended(self, daemon: int) -> None:
        if daemon in self._running:
            await self._running.pop(daemon)[2].wait()

    async def finish(self) -> None:
        """Let background work end, check what is stored and stop everything."""
        report = await self.check()
        await self.stop()
        found = [str(fault) for fault in report.faults if fault.kind not in self.expected_faults]
        assert not found, "\n".join(found)

    async def check(self, *, repair: bool = False) -> Report:
        """What `gkfs fsck` finds, but for link counts of directories: no client of ours sends them."""
        report = await survey.check_async(hostfile.read(self.hostfile), repair)
        return report._replace(faults=_ours(report.faults), remaining=_ours(report.remaining))


def _ours(faults: list[Fault]) -> list[Fault]:
    return [fault for fault in faults if fault.kind is not Kind.LINKS or "directories in it" not in fault.facts]


async def eventually(check: Callable[[], Awaitable[bool]], timeout_s: float = CALL_TIMEOUT_S) -> None:
    """Wait until *check* is true."""
    with trio.fail_after(timeout_s):
        while True:
            if await check():
                return
            await trio.sleep(0.01)


@contextmanager
def fails(number: int) -> Iterator[None]:
    """What is within fails with OSError of this errno."""
    try:
        yield
    except OSError as error:
        if error.errno != number:
            raise
        return
    raise AssertionError(f"expected {errno.errorcode[number]}")


def create_request(
    path: bytes, mode: int = S_IFREG | 0o644, parent_fid: int = 0, *, exclusive: bool = True
) -> CreateRequest:
    target = b"elsewhere" if S_ISLNK(mode) else b""
    return CreateRequest(path, parent_fid, mode, 1000, 1000, 0, exclusive, target, time.time_ns())


def in_cluster(
    count: int, replicas: int = REPLICAS, *, checksums: bool = False
) -> Callable[[Callable[[Cluster], Awaitable[None]]], Callable[[Path], None]]:
    """Run an async test with *count* daemons, then check what they have stored."""
    features = Features(checksums, replicas=replicas if count >= REPLICAS_DAEMONS_LEAST else 1)

    def decorate(test: Callable[[Cluster], Awaitable[None]]) -> Callable[[Path], None]:
        async def main(folder: Path) -> None:
            with trio.fail_after(TEST_TIMEOUT_S):
                async with trio.open_nursery() as nursery:
                    cluster = Cluster(folder, count, nursery, features)
                    await cluster.start()
                    await test(cluster)
                    await cluster.finish()
                    nursery.cancel_scope.cancel()

        def run(tmp_path: Path) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(background, "RETRY_MAX_S", RETRY_S)
                patch.setattr(peers, "RECONNECT_MAX_S", RETRY_S)
                patch.setattr(mirror, "COPY_PING_S", SILENCE_S / 10)
                patch.setattr(mirror, "COPY_LEASE_S", SILENCE_S / 2)
                for module in (failover, leading):
                    patch.setattr(module, "COPY_PING_S", SILENCE_S / 10)
                    patch.setattr(module, "COPY_SILENCE_S", SILENCE_S)
                patch.setattr(agreement, "VOTE_TIMEOUT_S", SILENCE_S / 4)
                patch.setattr(opens, "NAMELESS_GRACE_S", GRACE_S)
                patch.setattr(survey, "FSCK_SETTLE_S", SETTLE_S)
                trio.run(main, tmp_path)

        run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
        return run

    return decorate
