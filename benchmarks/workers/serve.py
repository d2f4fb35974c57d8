"""One mount, several processes: FUSE_INIT is answered, the process forks, each worker serves what it gets.

All workers read the same device; a token sees to it that who reads finds a request there. Each is a whole client,
with connections and a client id of its own; what they must know of each other is in a `Table`.
"""

import inspect
import logging
import multiprocessing
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pyfuse3
import trio
from pyfuse3 import RequestContext

from benchmarks.workers.handles import SharedHandles, SharedListing, file_handle
from benchmarks.workers.inodes import SharedHolds, SharedInode, SharedInodes, SharedTouches
from benchmarks.workers.table import Table
from gkfs import hostfile
from gkfs.buffers import keep_large_buffers
from gkfs.client.context import Context, MountOptions
from gkfs.client.data import FileData
from gkfs.client.fuse import GkfsOperations
from gkfs.client.inodes import Inode
from gkfs.client.mount import Mount, MountSettings
from gkfs.client.namespace import Namespace
from gkfs.client.pool import Pool
from gkfs.client.pump import Pump, _FakeTrio
from gkfs.commands.children import die_with_parent
from gkfs.distributor import Distributor
from gkfs.errors import ExitStatus, GkfsError
from gkfs.hostfile import Hostfile
from gkfs.messages import SetattrRequest

log = logging.getLogger(__name__)

TOKEN_WAIT_S: Final = 0.01  # who reads has it for some 10 us, or until it gets a processor again
INIT_TIMEOUT_S: Final = 10.0
END_TIMEOUT_S: Final = 20.0
_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class WorkerPump(Pump):
    """A pump that shares the FUSE device with those of other processes. *token*: who has it may read."""

    def __init__(self, token: Any) -> None:
        super().__init__()
        self._token = token
        self.has_token = False
        self._rests = False
        self._look = select.poll()

    def watch_fuse(self, fd: int) -> None:
        if self._fuse_fd != fd:
            self._fuse_fd = fd
            self._look.register(fd, select.POLLIN)
            # Of the workers that sleep in their epoll, the kernel wakes one.
            self.register(fd, self.fuse_readable, select.EPOLLIN | select.EPOLLEXCLUSIVE)
            log.info("serves")

    def modify(self, fd: int, events: int) -> None:
        if fd != self._fuse_fd:
            super().modify(fd, events)
            return
        self._epoll.unregister(fd)  # the kernel refuses to modify an exclusive entry
        if events:
            self._epoll.register(fd, events | select.EPOLLEXCLUSIVE)
        else:
            self._epoll.register(fd, 0)

    def fuse_readable(self, events: int) -> None:
        if not self._readers:
            super().fuse_readable(events)
        elif self._token.acquire(True, TOKEN_WAIT_S):
            self.has_token = True
            try:
                if self._look.poll(0):  # else another worker was faster
                    super().fuse_readable(events)
            finally:
                self.give_token()

    def rest_or_go_on(self) -> None:
        """Read no requests from now on, or read them again; the log says which. For tests."""
        self._rests = not self._rests
        self.modify(self._fuse_fd, 0 if self._rests else select.EPOLLIN)
        log.info("rests" if self._rests else "goes on")

    def give_token(self) -> None:
        """The request was read: others may read the next."""
        if self.has_token:
            self.has_token = False
            self._token.release()


class WorkerData(FileData):
    """File contents of one worker."""

    async def publish_beside(self) -> None:
        dirty = self._writer.dirty
        for inode in list(dirty):
            assert isinstance(inode, SharedInode)
            if not (inode.is_live and inode.dirty):  # another worker has published it
                dirty.discard(inode)
        await super().publish_beside()


class WorkerNamespace(Namespace):
    """Names and records as one worker handles them."""

    async def set_attributes(self, inode: Inode, request: SetattrRequest) -> None:
        assert isinstance(inode, SharedInode)
        inode.times_set_ns = request.now_ns
        await super().set_attributes(inode, request)


class WorkerOperations(GkfsOperations):
    """The handlers. pyfuse3 gets them before there are workers; each worker then attaches its own context."""

    def __init__(self) -> None:  # the base's is called by attach
        self._pump: WorkerPump | None = None

    def init(self) -> None:
        pass  # no worker serves yet

    def attach(self, context: Context, inodes: SharedInodes, pump: WorkerPump, folder: Path) -> None:
        """From here on this process serves."""
        context.inodes = inodes
        super().__init__(context, lambda: None)
        self._pump = pump
        self.touches = SharedTouches(context)
        self.holds = SharedHolds(context)
        self.data = WorkerData(context)
        self._names = WorkerNamespace(context, self.data, self.touches)
        table = inodes.table
        self._files = SharedHandles(table, lambda fid, flags, _: file_handle(inodes, fid, flags))
        self._directories = SharedHandles(
            table, lambda fid, _, number: SharedListing(context, inodes[fid], table, folder, number)
        )
        self._open_listing = partial(SharedListing, context, table=table, folder=folder)

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        del ctx
        assert self._pump is not None
        self._pump.give_token()
        return self._directories.add(self._open_listing(self._inodes[inode]))


def _gives_token(name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    method = getattr(GkfsOperations, name)

    def handler(self: WorkerOperations, *arguments: Any) -> Coroutine[Any, Any, Any]:
        assert self._pump is not None
        self._pump.give_token()
        result: Coroutine[Any, Any, Any] = method(self, *arguments)
        return result

    return handler


def _tells_counts(name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    method = _gives_token(name)

    async def handler(self: WorkerOperations, *arguments: Any) -> Any:
        result = await method(self, *arguments)
        await self.touches.send_all()
        return result

    return handler


for _name in ("mkdir", "rmdir", "rename"):  # other workers could not add what waits here to a link count
    setattr(WorkerOperations, _name, _tells_counts(_name))
for _name, _method in list(vars(GkfsOperations).items()):
    if inspect.iscoroutinefunction(_method) and not _name.startswith("_") and _name not in vars(WorkerOperations):
        setattr(WorkerOperations, _name, _gives_token(_name))


class WorkerMount(Mount):
    """One worker: the product's mount, but for what it shares."""

    def __init__(
        self,
        settings: MountSettings,
        hosts: Hostfile,
        operations: WorkerOperations,
        table: Table,
        token: Any,
        folder: Path,
    ) -> None:
        super().__init__(settings, hosts, lambda: None)
        self._pump.close()
        pump = self._pump = WorkerPump(token)
        self._pool = Pool(
            pump, hosts, settings.hostfile, os.urandom(16), settings.request_timeout_s, merge=settings.merge
        )
        options = MountOptions(
            settings.direct_io, settings.xattrs, True, settings.local_placement, settings.attr_timeout_s
        )
        own = [index for index, address in hosts.daemons.items() if address.host == socket.gethostname()]
        self._context = Context(self._pool, Distributor(hosts.daemon_count), options, own)
        operations.attach(self._context, SharedInodes(table), pump, folder)
        self._operations = operations

    @property
    def pump(self) -> WorkerPump:
        """What it reads requests with."""
        assert isinstance(self._pump, WorkerPump)
        return self._pump

    def _mount(self) -> None:
        pass  # it is


def run_mount_with_workers(settings: MountSettings, workers: int, on_ready: Callable[[], None]) -> None:
    """As `gkfs.client.mount.run_mount`, by *workers* processes below this one. Each write waits."""
    hosts = hostfile.read_complete(settings.hostfile)
    keep_large_buffers()
    table = Table()
    operations = WorkerOperations()
    folder = Path(tempfile.mkdtemp(prefix="gkfs-workers-", dir="/dev/shm"))
    try:
        _mount(settings, operations)
        try:
            children = _fork(settings, workers, hosts, operations, table, folder)
            on_ready()
            _wait(children)
        finally:
            pyfuse3.close(unmount=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fork(
    settings: MountSettings,
    workers: int,
    hosts: Hostfile,
    operations: WorkerOperations,
    table: Table,
    folder: Path,
) -> list[int]:
    token = multiprocessing.get_context("fork").Lock()
    parent = os.getpid()
    found = []
    for _ in range(workers):
        pid = os.fork()
        if pid:
            found.append(pid)
            continue
        status = 1
        try:
            die_with_parent(parent)
            _serve(WorkerMount(settings, hosts, operations, table, token, folder))
            status = 0
        except BaseException:
            log.exception("a worker of %s has ended", settings.mountdir)
        finally:
            os._exit(status)
    return found


def _serve(worker: WorkerMount) -> None:
    for number in _ENDING:  # taken while it serves; one that comes later must not keep it from publishing
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, lambda *_: worker.pump.rest_or_go_on())
    trio.run(worker.run, strict_exception_groups=True)


def _wait(children: list[int]) -> None:
    """Until all workers have ended; when one has, or at a signal, the others are told to. Raises GkfsError."""
    left = set(children)

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        for pid in left:
            os.kill(pid, signal.SIGKILL if number == signal.SIGALRM else signal.SIGTERM)

    before = {number: signal.signal(number, end) for number in (*_ENDING, signal.SIGALRM)}
    failed = False
    try:
        while left:
            pid, status = os.wait()
            left.discard(pid)
            failed |= status != 0
            end(signal.SIGTERM, None)
            signal.setitimer(signal.ITIMER_REAL, END_TIMEOUT_S)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
    if failed:
        raise GkfsError("a worker has failed, the log says why", ExitStatus.FAILURE)


def _mount(settings: MountSettings, operations: WorkerOperations) -> None:
    options = {f"fsname={settings.source}", "subtype=gkfs", "default_permissions"}
    if settings.allow_other:
        options.add("allow_other")
    try:
        pyfuse3.init(operations, str(settings.mountdir), options)
    except RuntimeError as error:
        raise GkfsError(f"cannot mount on {settings.mountdir}: {error}", ExitStatus.FUSE) from None
    _answer_init()


def _answer_init() -> None:
    """Serve one request, the first, with one coroutine of pyfuse3 and no event loop."""
    pump = Pump()
    pyfuse3.trio = _FakeTrio(pump)  # type: ignore[attr-defined]
    try:
        main = pyfuse3.main()
        main.send(None)
        worker = pump.spare_workers.pop()()
        pump._readers = [worker]
        worker.send(None)
        os.set_blocking(pump._fuse_fd, False)
        if not select.select([pump._fuse_fd], [], [], INIT_TIMEOUT_S)[0]:
            raise GkfsError("the kernel does not open the session", ExitStatus.FUSE)
        worker.send(None)
        pump._workers = {worker}
        pump.close_readers()
        try:
            main.send(None)
        except StopIteration:
            return
        raise GkfsError("pyfuse3 does not end its session", ExitStatus.FUSE)
    finally:
        pyfuse3.trio = trio  # type: ignore[attr-defined]
        pump.close()


def main() -> None:
    """`python -m benchmarks.workers.serve HOSTFILE MOUNTDIR WORKERS`: in the foreground, until it is unmounted."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    hosts, mountdir, workers = sys.argv[1:]
    run_mount_with_workers(
        MountSettings(Path(hosts), Path(mountdir), allow_other=True), int(workers), lambda: None
    )


if __name__ == "__main__":
    main()
