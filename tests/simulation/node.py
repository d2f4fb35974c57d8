"""Daemons and clients of a simulated cluster: started, stopped, killed.

A daemon is `gkfs.daemon.server.serve` as it is. A client is `gkfs.client.mount.Mount` but for the FUSE session:
its handlers are called by `kernel.Kernel`, on the pump, as pyfuse3 does.
"""

import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import outcome
import trio

from gkfs import hostfile
from gkfs.client.fuse import GkfsOperations
from gkfs.client.mount import Mount, MountSettings
from gkfs.client.pump import Gate, Pump
from gkfs.daemon.server import DaemonSettings, Serving, serve
from gkfs.endpoint import Connect
from gkfs.errors import GkfsError
from tests.simulation.process import PROCESS, Killed, Process, only_killed

T = TypeVar("T")
_PATIENCE_S = 1000.0  # of a client that starts while daemons are away
_LOOK_AGAIN_S = 0.05  # whether all daemons are in the hostfile


class Node:
    """What runs in one simulated process at a time."""

    def __init__(self, name: str, host: str, nursery: trio.Nursery) -> None:
        self.name = name
        self.host = host
        self.starts = 0
        self.process = Process(name, host)
        self.ready = trio.Event()
        self.ended = trio.Event()
        self.ended.set()
        self._nursery = nursery

    @property
    def is_up(self) -> bool:
        """Whether it has started, and not ended."""
        return self.ready.is_set() and not self.ended.is_set() and self.process.alive

    def start(self) -> None:
        """Begin to run; sets `ready` when it serves."""
        assert self.ended.is_set()
        self.starts += 1
        self.process = Process(self.name, self.host)
        self.ready, self.ended = trio.Event(), trio.Event()
        self._nursery.start_soon(self._live, self.process, self.ended, name=self.name)

    async def _live(self, process: Process, ended: trio.Event) -> None:
        PROCESS.set(process)
        try:
            with process.scope:
                await self.work()
        except Killed:
            pass
        except GkfsError as error:
            self.failed(error)
        except BaseExceptionGroup as group:
            if not only_killed(group):
                raise
        finally:
            process.alive = False
            ended.set()

    async def work(self) -> None:
        """What the process does, until it ends."""
        raise NotImplementedError

    def failed(self, error: GkfsError) -> None:
        """It has ended, and has said why."""
        raise error

    async def kill(self) -> None:
        """As `kill -9`."""
        self.process.kill()
        await self.ended.wait()


class DaemonNode(Node):
    """One daemon on a host of its own, with its rootdir."""

    def __init__(self, index: int, folder: Path, hosts: Path, nursery: trio.Nursery) -> None:
        super().__init__(f"daemon {index}", f"daemon{index}", nursery)
        self.index = index
        self.lost = False  # for good, with all that it has stored
        self.replaced = False  # it was silent, and another one has taken its place: it is lost as well
        self._told = False  # to end
        self.stop = trio.Event()
        # Pieces that could go past the page cache are large, and in memory there is no such way.
        self.settings = DaemonSettings(
            folder / f"daemon-{index}", hosts, index, listen=f"tcp://{self.host}:0", direct_io=False
        )

    async def work(self) -> None:
        self.stop = trio.Event()
        self._told = False
        await serve(self.settings, stop=self.stop, task_status=_Ready(self.ready))
        if not self._told:
            self.replaced = self.lost = True

    @property
    def is_ending(self) -> bool:
        """Whether it has been told to end, and will."""
        return self.stop.is_set()

    def terminate(self) -> None:
        """As SIGTERM."""
        self._told = True
        self.stop.set()

    async def end(self) -> None:
        """As SIGTERM, and wait for the end."""
        self.terminate()
        await self.ended.wait()


class _Ready:
    """What `serve` gets for its task status."""

    def __init__(self, event: trio.Event) -> None:
        self._event = event

    def started(self, value: object = None) -> None:
        self._event.set()


class SessionPump(Pump):
    """The pump with a FUSE session of which the system knows nothing; `pyfuse3.terminate` ends it."""

    async def serve(self) -> None:
        end = Gate()
        PROCESS.get().end_session = end.open

        async def session() -> None:
            await end

        await self.drive(session())


class _Mount(Mount):
    """A mount whose kernel is simulated."""

    def __init__(
        self,
        settings: MountSettings,
        hosts: hostfile.Hostfile,
        on_ready: Callable[[], None],
        connect_local: Connect | None = None,
    ) -> None:
        super().__init__(settings, hosts, on_ready, connect_local)
        self._on_ready = on_ready

    @property
    def operations(self) -> GkfsOperations:
        """The FUSE handlers."""
        return self._operations

    @property
    def pump(self) -> Pump:
        """What runs them."""
        return self._pump

    def _mount(self) -> None:
        self._on_ready()

    async def _take_signals(self, task_status: "trio.TaskStatus[None]") -> None:
        task_status.started()


class ClientNode(Node):
    """One mount on a host of its own."""

    def __init__(self, number: int, hosts: Path, nursery: trio.Nursery, **options: Any) -> None:
        super().__init__(f"client {number}", f"client{number}", nursery)
        self._hosts = hosts
        self._options = options
        self._mount: _Mount | None = None
        self.was_cut_off = False  # it has ended before its programs

    @property
    def operations(self) -> GkfsOperations:
        """The FUSE handlers of the mount that runs."""
        assert self._mount is not None
        return self._mount.operations

    async def work(self) -> None:
        settings = MountSettings(self._hosts, Path("/nowhere"), patience_s=_PATIENCE_S, **self._options)
        self._mount = _Mount(settings, hostfile.read_complete(self._hosts), self.ready.set)
        await self._mount.run()

    def failed(self, error: GkfsError) -> None:
        """A mount that does not come about is told so, and that is right."""

    async def request(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Have a handler run on the pump; its result or exception."""
        if not self.process.alive or self.ended.is_set():
            await trio.sleep_forever()  # who asks ends, too
        assert self._mount is not None
        done = trio.Event()
        result: list[outcome.Outcome[T]] = []

        async def run() -> None:
            try:
                result.append(outcome.Value(await make()))
            except Exception as error:
                result.append(outcome.Error(error))
            done.set()

        self._mount.pump.start(run())
        await done.wait()
        return result[0].unwrap()

    async def kill(self) -> None:
        self.was_cut_off = True
        await super().kill()

    async def end(self) -> None:
        """Unmount."""
        assert self._mount is not None
        self._mount.end()
        await self.ended.wait()


class GuestNode(ClientNode):
    """A mount in the process of a daemon, which it ends with. A daemon that is started again has none."""

    def __init__(self, number: int, hosts: Path, nursery: trio.Nursery, **options: Any) -> None:
        super().__init__(number, hosts, nursery, **options)
        self.ended = trio.Event()

    async def live(self, process: Process, serving: Serving) -> None:
        """All of its life, in *process*."""
        self.process = process
        self.host = process.host
        try:
            hosts = await self._all_daemons()
            if self.was_cut_off:
                return
            settings = MountSettings(self._hosts, Path("/nowhere"), patience_s=_PATIENCE_S, **self._options)
            self._mount = _Mount(settings, hosts, self.ready.set, serving.connect)
            await self._mount.run()
        except GkfsError as error:
            self.failed(error)
        finally:
            self.was_cut_off |= not process.alive
            self.ended.set()

    async def _all_daemons(self) -> hostfile.Hostfile:
        while True:
            hosts = hostfile.read(self._hosts)
            if hosts.complete:
                return hosts
            await trio.sleep(_LOOK_AGAIN_S)

    def cut_off(self) -> None:
        """Have it unmount below its programs."""
        self.was_cut_off = True
        if self._mount is not None:
            self._mount.end()


class HostNode(DaemonNode):
    """A daemon with a mount in its process."""

    def __init__(self, index: int, folder: Path, hosts: Path, nursery: trio.Nursery, guest: GuestNode) -> None:
        super().__init__(index, folder, hosts, nursery)
        self._guest = guest

    async def work(self) -> None:
        if self.starts > 1:
            await super().work()
            return
        self.stop = trio.Event()
        async with trio.open_nursery() as nursery:
            serving: Serving = await nursery.start(self._serve)
            self.ready.set()
            await self._guest.live(self.process, serving)
            if self._guest.was_cut_off:
                self.stop.set()

    async def _serve(self, task_status: "trio.TaskStatus[Serving]") -> None:
        """The daemon; one that was replaced takes its guest with it."""
        await serve(self.settings, stop=self.stop, task_status=task_status)
        if not (self._told or self._guest.was_cut_off):
            self.replaced = self.lost = True
            self._guest.cut_off()

    @property
    def is_ending(self) -> bool:
        return super().is_ending or (self.starts == 1 and self._guest.was_cut_off)

    def terminate(self) -> None:
        if self._guest.ended.is_set():
            super().terminate()
        else:  # the mount goes first
            self._guest.cut_off()


def folder_in_memory() -> Path:
    """Where simulations keep their files."""
    return Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path("/tmp")
