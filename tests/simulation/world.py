"""One run: a cluster on a simulated system, programs, faults; then peace, and the checks."""

import hashlib
import shutil
import stat
import tempfile
import traceback
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio
from pyfuse3 import FUSEError

from gkfs import hostfile
from gkfs.commands import control, hostfiles, survey
from gkfs.daemon.faults import Kind
from gkfs.errors import GkfsError
from gkfs.hostfile import Features
from gkfs.keyfile import KEY_BYTES, Key
from gkfs.limits import HOLD_RENEW_S, HOLDER_GONE_S, NAMELESS_GRACE_S, REPLICAS_MAX, REQUEST_TIMEOUT_S
from gkfs.messages import Empty
from gkfs.operations import STATUS
from tests.simulation import data_model, names_model
from tests.simulation.faults import Faults
from tests.simulation.history import History
from tests.simulation.kernel import Kernel
from tests.simulation.log import logged
from tests.simulation.node import ClientNode, DaemonNode, GuestNode, HostNode, folder_in_memory
from tests.simulation.process import PROCESS, Process
from tests.simulation.stores import NothingUncommitted
from tests.simulation.system import System
from tests.simulation.workload import ALL_NAMES, BLOCKS, DIRECTORIES, LOGS, Numbers, Program, read_block

_FSID: Final = "5f0c6f6d1c2b4b0e9a51d6c2c3f0a911"
_TRACE_KEPT: Final = 60
_RUN_MAX_S: Final = 3600.0  # simulated; nothing waits that long
_CUT_OFF_S: Final = 1.0  # who is, may learn too late that somebody else writes to its file
_LATE_S: Final = 10.0  # what is away for less makes no call fail
_CALL_MAX_S: Final = 2 * REQUEST_TIMEOUT_S + 1.0  # some have to ask two daemons, one after the other


class Violation(AssertionError):
    """A promise was broken, or a check failed."""


@dataclass
class Report:
    """What a run has shown."""

    seed: int
    options: str = ""  # that make another run of the seed
    digest: str = ""
    violations: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    simulated_s: float = 0.0

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {len(self.violations)} violations", *self.violations[:10], "the last events:"]
        again = f"again: python -m tests.simulation.run --seed {self.seed}{self.options}"
        return "\n".join([*lines, *self.trace, again])


class World:
    """A cluster of *daemon_count* hosts with a daemon each, and clients on hosts of their own."""

    def __init__(
        self,
        seed: int,
        folder: Path,
        *,
        daemon_count: int = 0,
        fault_count: int = -1,
        replicas: int = 1,
        guests: bool = False,
        checksums: bool = False,
    ) -> None:
        """*guests*: clients are in the processes of daemons, as far as there are enough of these."""
        self.report = Report(seed)
        self.system = System(seed, calm=fault_count == 0)
        self.random = self.system.random
        self.history = History()
        self.daemons: list[DaemonNode] = []
        self.clients: list[ClientNode] = []
        self._folder = folder
        self._hosts = folder / "hosts"
        self.replicas = replicas
        self._guests = guests
        self._features = Features(checksums, replicas=replicas)
        counts = (1, 2, 2, 3, 3, 4) if replicas == 1 else (3, 4)
        self._daemon_count = daemon_count or self.random.choice(counts)
        self._fault_count = self.random.choice((0, 2, 4, 8)) if fault_count < 0 else fault_count
        self._client_count = self.random.choice((1, 2, 3))
        self._program_count = self.random.choice((1, 1, 2))
        self._calls = 90 // (self._client_count * self._program_count)
        self._think_s = self.random.choice((0.0, 0.002, 0.05))
        self._write_through = self.random.random() < 0.3
        self._turns = self.random.random() < 0.2
        self._numbers = Numbers()
        self._programs: list[Program] = []
        self._kernels: list[Kernel] = []
        self._calls_begun = 0
        self._fault_scopes: list[trio.CancelScope] = []
        self._digest = hashlib.blake2b(digest_size=16)
        self._last: deque[str] = deque(maxlen=_TRACE_KEPT)
        self._faults = Faults(self, self.random)
        calls = self._calls * self._client_count * self._program_count
        self._fault_calls = Counter(self.random.randrange(calls) for _ in range(self._fault_count))

    # --- for all parts

    def trace(self, event: str) -> None:
        """Something has happened."""
        line = f"{self.system.clock.now_s:.6f} {event}"
        self._digest.update(line.encode())
        self._last.append(line)

    def violation(self, text: str) -> None:
        """A promise was broken."""
        self.trace(f"VIOLATION: {text}")
        self.report.violations.append(text)

    def hosts(self) -> list[str]:
        """Where something runs."""
        return list(dict.fromkeys(node.host for node in (*self.daemons, *self.clients) if node.is_up))

    @property
    def _daemon_ended(self) -> bool:
        return any(daemon.starts > 1 or daemon.lost for daemon in self.daemons)

    def _took(self, what: str, seconds: float) -> None:
        if seconds > _CALL_MAX_S:
            self.violation(f"{what} took {seconds:.3f} s")

    def add_client(self) -> ClientNode:
        """One more client, with its programs."""
        client = ClientNode(len(self.clients), self._hosts, self._nursery, write_through=self._write_through)
        client.start()
        self._employ(client)
        return client

    def _employ(self, client: ClientNode) -> None:
        """Give *client* its programs."""
        self.clients.append(client)
        kernel = Kernel(client, self.system.clock, self.history, self.trace, self._took)
        self._kernels.append(kernel)
        for _ in range(self._program_count):
            self._working += 1
            self._nursery.start_soon(self._work, client, kernel)

    async def is_mirrored(self) -> bool:
        """Whether everything is on two daemons now."""
        PROCESS.set(Process("checks", "checks"))

        async def copies(daemons: dict[int, control.Conversation]) -> list[int]:
            return [(await daemon.ask(STATUS, Empty())).copies for daemon in daemons.values()]

        try:
            return set(await control.converse(hostfile.read(self._hosts), copies)) == {REPLICAS_MAX}
        except (GkfsError, ExceptionGroup):  # a connection broke
            return False

    # --- the run

    def run(self) -> Report:
        """All of it."""
        with self.system.installed(), logged(self.trace, self._folder):
            try:
                trio.run(self._main, clock=self.system.clock, instruments=[NothingUncommitted(self.violation)])
            except Exception as error:
                self.violation("".join(traceback.format_exception(error)))
        report = self.report
        report.digest = self._digest.hexdigest()
        report.trace = list(self._last)
        report.simulated_s = self.system.clock.now_s
        report.counts["network events"] = self.system.network.events
        report.counts["calls about names"] = len(self.history.names)
        return report

    async def _main(self) -> None:
        try:
            with trio.fail_after(_RUN_MAX_S):
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self.system.network.run)
                    await self._begin()
                    await self._until_worked()
                    await self._peace()
                    await self._check()
                    for daemon in self.daemons:
                        if daemon.is_up:
                            await daemon.end()
                    nursery.cancel_scope.cancel()
        except trio.TooSlowError:
            self.violation(f"the run has not ended after {_RUN_MAX_S} s")

    async def _begin(self) -> None:
        hostfiles.create(self._hosts, _FSID, self._daemon_count, Key(bytes(KEY_BYTES)), self._features)
        guests = []
        for index in range(self._daemon_count):
            settings = index, self._folder, self._hosts, self._nursery
            if self._guests and index < self._client_count:
                guests.append(GuestNode(index, self._hosts, self._nursery, write_through=self._write_through))
                self.daemons.append(HostNode(*settings, guests[index]))
            else:
                self.daemons.append(DaemonNode(*settings))
            self.daemons[index].start()
        for daemon in self.daemons:
            await daemon.ready.wait()
            self._nursery.start_soon(self._while_faults, self._faults.keep, daemon)
        self._working = 0
        self._all_worked = trio.Event()
        self._set_up = False
        for guest in guests:
            self._employ(guest)
        for _ in range(self._client_count - len(guests)):
            self.add_client()

    async def _work(self, client: ClientNode, kernel: Kernel) -> None:
        """One program, which ends with its client."""
        PROCESS.set(Process(f"program of {client.name}", client.host))
        async with trio.open_nursery() as nursery:

            async def end_with_client() -> None:
                await client.ended.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(end_with_client)
            await client.ready.wait()
            if not self._set_up:
                self._set_up = True
                await self._prepare(kernel)
            large = self.system.network.profile.capacity_bytes > 4096
            shared = (self.history, self._numbers, self.random, self.trace)
            program = Program(
                kernel, *shared, large=large, turns=self._turns, is_late=lambda: self._faults.longest_s > _LATE_S
            )
            self._programs.append(program)
            await program.run(self._calls, self._think_s, self._call_begins)
            nursery.cancel_scope.cancel()
        self._working -= 1
        if not self._working:
            self._all_worked.set()

    async def _prepare(self, kernel: Kernel) -> None:
        for name in LOGS:
            with suppress(FUSEError):
                await kernel.close(await kernel.create((name,), exclusive=True))
        for name in DIRECTORIES:
            with suppress(FUSEError):  # others are at work already
                await kernel.mkdir((name,))

    async def _call_begins(self) -> None:
        for _ in range(self._fault_calls[self._calls_begun]):
            self._nursery.start_soon(self._while_faults, self._faults.draw())
        self._calls_begun += 1

    async def _while_faults(self, work: Callable[..., Awaitable[None]], *arguments: object) -> None:
        with trio.CancelScope() as scope:
            self._fault_scopes.append(scope)
            await work(*arguments)

    async def _until_worked(self) -> None:
        await self._all_worked.wait()
        for scope in self._fault_scopes:
            scope.cancel()

    async def _peace(self) -> None:
        """Nothing breaks any more, everything is up, all clients have gone."""
        self.trace("peace")
        self.system.network.heal()
        for daemon in self.daemons:
            daemon.process.dies_at_step = 0
        await self._all_daemons_up()
        for client in self.clients:
            if not client.ended.is_set():
                await client.end()
        await self._all_daemons_up()  # one may have ended with its guest
        await trio.sleep(2 * HOLDER_GONE_S)

    async def _all_daemons_up(self) -> None:
        for daemon in self.daemons:
            while (not daemon.is_up or daemon.is_ending) and not daemon.lost:
                if daemon.ended.is_set():
                    daemon.start()
                await trio.sleep(0.5)

    # --- the checks

    async def _check(self) -> None:
        PROCESS.set(Process("checks", "checks"))
        for program in self._programs:
            for text in program.unexpected:
                self.violation(f"an outcome that no call has: {text}")
        await self._fsck()
        await self._read_all()
        verdict = names_model.check(self.history.names)
        self.report.counts["undecided"] += verdict.undecided
        if not verdict.ok:
            self.violation(f"names: nothing explains {verdict.stuck}")
            for op in verdict.longest[-12:]:
                self._last.append(f"explained: {op}")
            for op in self.history.names:
                if verdict.stuck is not None and op not in verdict.longest and op.begun < verdict.stuck.ended:
                    self._last.append(f"not explained: {op}")
        # A holder of a write lease whose data cannot get through for so long may come late, or if it, or who has
        # forgotten its lease, was away.
        unknown = self._faults.longest_s >= _CUT_OFF_S or self._faults.killed_daemons > 0
        waited_s = self.system.waited_s
        late = {one.name for one in self.clients if unknown or waited_s.get(one.host, 0.0) >= _CUT_OFF_S}
        for text in data_model.check_reads(self.history, late):
            self.violation(text)

    async def _fsck(self) -> None:
        """What `gkfs fsck` finds; after clients were killed, handles lost or calls given up, what it leaves.

        Handles are lost with what a daemon that has ended remembered of renames, and where for so long nothing, or
        not all, got through to or from a node that it could not say what it has open, or not learn where that is.
        """
        stale = sum(kernel.stale for kernel in self._kernels)
        late = sum(kernel.late for kernel in self._kernels)
        if not self._daemon_ended:
            for kernel in self._kernels:
                stalled_s = self.system.network.stalled_s.get(kernel.client.host, 0.0)
                if kernel.stale and stalled_s < NAMELESS_GRACE_S - HOLD_RENEW_S:
                    self.violation(
                        f"{kernel.name}: {kernel.stale} calls for open files that are nowhere to be found"
                    )
        self.report.counts["stale"] += stale
        self.report.counts["late"] += late
        allowed: set[Kind] = set()
        if self._daemon_ended:  # which knows no more where a directory went whose count is to be changed
            allowed |= {Kind.LINKS}
        if any(client.was_cut_off for client in self.clients) or stale > 0 or late > 0:
            allowed |= {Kind.LINKS, Kind.BEYOND, Kind.GARBAGE}
        found = await survey.check_async(hostfile.read(self._hosts), repair=bool(allowed))
        for fault in [fault for fault in found.faults if fault.kind not in allowed] + (
            found.remaining if allowed else []
        ):
            self.violation(f"fsck: {fault}")

    async def _read_all(self) -> None:
        """What a client sees in the end, as part of the history."""
        client = ClientNode(len(self.clients), self._hosts, self._nursery)
        client.start()
        await client.ready.wait()
        kernel = Kernel(client, self.system.clock, self.history, self.trace, self._took)
        seen: set[int] = set()
        folders: deque[tuple[bytes, ...]] = deque([()])
        try:
            while folders:
                path = folders.popleft()
                for name, found in (await kernel.list(path, ALL_NAMES)).items():
                    await kernel.lookup(await kernel.walk(path), name)
                    if stat.S_ISDIR(found.mode):
                        folders.append((*path, name))
                    elif found.fid not in seen:
                        seen.add(found.fid)
                        await self._read_file(kernel, (*path, name))
        except FUSEError as error:
            self.violation(f"reading everything in the end failed with errno {error.errno}")
        await client.end()

    async def _read_file(self, kernel: Kernel, path: tuple[bytes, ...]) -> None:
        handle = await kernel.open(path)
        if path[-1] in LOGS:
            attributes = await kernel.stat(path)
            data = await kernel.read(handle, 0, attributes.st_size)
            if len(data) != attributes.st_size:
                self.violation(f"{path}: {len(data)} bytes of {attributes.st_size}")
            appends = [append for append in self.history.appends if append.fid == handle.fid]
            for text in data_model.check_appends(handle.fid, data, appends):
                self.violation(text)
        else:
            for block in range(len(BLOCKS)):
                await read_block(kernel, self.history, handle, range(block, block + 1), self.random)
        await kernel.close(handle)


# Options of the command line that have other names there.
_OPTIONS: Final = {"daemon_count": "daemons", "fault_count": "faults"}


def simulate(seed: int, **options: Any) -> Report:
    """Run *seed* in a fresh folder. Raises whatever the product or the simulation has failed with."""
    folder = Path(tempfile.mkdtemp(prefix="gkfs-simulation-", dir=folder_in_memory()))
    try:
        report = World(seed, folder, **options).run()
    finally:
        shutil.rmtree(folder)
    for name, value in options.items():
        if value is not False:
            report.options += f" --{_OPTIONS.get(name, name)}" + ("" if value is True else f" {value}")
    return report
