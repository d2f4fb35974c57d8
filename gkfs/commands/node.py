"""`gkfs node`: one node of a job's file system, told what to do by the leader that had it started.

It starts this node's daemons and its mount, says when they are ready, watches them, and ends and removes all of
it: when the leader says so, when the leader is gone, or upon a signal (Slurm's, at the end of the job). Nothing
stays on the node but what SIGKILL leaves, which deploy/slurm/epilog or the next file system of the job removes.

    leader              node
            <- joined   my name
    prepare ->          a Plan
            <- prepared lines of the hostfile: my daemons listen
    mount ->            the lines of all daemons
            <- ready    my mount is usable
            <- lost     a daemon or the mount has ended, the rest goes on
            <- stop     somebody here asks for the end
    unmount ->
            <- unmounted
    end ->
            <- ended    nothing is left, but for what the warnings say

Instead of an answer a node may say `failed`; it then cleans up without being told, and says `ended`.
"""

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from gkfs import addresses, hostfile
from gkfs.commands import (
    children,
    cleaning,
    hostfiles,
    jobs,
    launch,
    launchers,
    mounts,
    records,
    rootdirs,
    scratch,
)
from gkfs.commands.children import Child
from gkfs.commands.features import Wanted
from gkfs.commands.mount import Options, mount_in_background
from gkfs.commands.signals import ENDING, Interrupted, Signals
from gkfs.errors import ExitStatus, GkfsError
from gkfs.gang import GANG_VARIABLE, Member
from gkfs.gang_wire import GangEnded, Message
from gkfs.hostfile import DaemonAddress, Features, Sync
from gkfs.limits import (
    DAEMON_RESTARTS_MAX,
    JOB_CONNECT_TIMEOUT_S,
    JOB_END_GRACE_S,
    JOB_START_TIMEOUT_S,
    JOB_STOP_TIMEOUT_S,
    POLL_INTERVAL_S,
    START_TIMEOUT_S,
)

_LOG_KEPT_BYTES: Final = 64 << 10


class Plan(NamedTuple):
    """What one node is to do."""

    job: dict[str, Any]  # jobs.Job as a dictionary, without `gang`
    first_daemon: int
    daemons: int  # here
    total_daemons: int
    mounts: bool
    rootdir: str | None
    interface: str | None
    listen: str
    cores: list[int]  # empty: all
    options: dict[str, Any]  # of mount.Options
    capacity: int | None  # bytes, of each daemon
    keeps_logs: bool  # they are sent to the leader at the end
    features: list[Any]  # hostfile.Features


class _ToldToEnd(Exception):
    """The leader wants no more of this."""


@click.command("node", hidden=True)
def node() -> None:
    """Serve one node of a job's file system. Started by `gkfs start` and `gkfs run`, not by hand."""
    member = Member.join(launchers.own_rank())
    with Signals(*ENDING, signal.SIGCHLD) as signals:
        _Node(member, signals).run()


class _Node:
    def __init__(self, member: Member, signals: Signals) -> None:
        self._member = member
        self._signals = signals
        self._arrived: list[Message] = []
        self._daemons: dict[int, Child] = {}  # by index
        self._client: Child | None = None
        self._addresses: dict[int, DaemonAddress] = {}  # of the daemons here, by index
        self._restart: Callable[..., Child]
        self._restarts = 0
        self._warnings: list[str] = []
        self._left: list[str] = []  # what could not be removed
        self._logs: dict[str, str] | None = None  # by file name, if the leader wants them
        self._orderly = False  # the leader said `unmount`, and will say `end`

    def run(self) -> None:
        """From joining to the end."""
        self._member.send({"is": "joined", "host": launchers.own_name()})
        try:
            with contextlib.ExitStack() as undo:
                try:
                    plan = Plan(**self._wait_for("prepare", JOB_START_TIMEOUT_S)["plan"])
                    self._set_up(plan, undo)
                except GkfsError as error:
                    self._tell({"is": "failed", "message": str(error), "status": int(error.status)})
                else:
                    self._watch()
        except (_ToldToEnd, GangEnded, Interrupted):
            pass  # the stack has undone everything
        self._tell({"is": "ended", "warnings": self._warnings, "left": self._left, "logs": self._logs or {}})

    # --- start

    def _set_up(self, plan: Plan, undo: contextlib.ExitStack) -> None:
        job = jobs.decode(plan.job | {"gang": {GANG_VARIABLE: os.environ[GANG_VARIABLE]}})
        if plan.cores:
            _use_cores(plan.cores)
        if plan.mounts:
            mounts.check_fuse()
        self._logs = {} if plan.keeps_logs else None
        state = undo.enter_context(self._state_folder(job.name))
        own_hosts = state / jobs.HOSTS_NAME
        hostfiles.create(own_hosts, job.fsid, plan.total_daemons, job.key, _features(plan))
        if plan.daemons:
            data = undo.enter_context(self._data_folder(plan, job.name, state))
            undo.callback(self._end_daemons)
            for index in range(plan.first_daemon, plan.first_daemon + plan.daemons):
                rootdirs.daemon_folder(data, index).mkdir(mode=0o700)
                listen = launch.listen_of(plan.listen, index - plan.first_daemon)
                self._daemons[index] = self._start_daemon(plan, index, data, state, listen)
            self._restart = partial(self._start_daemon, plan, data=data, state=state)
        undo.callback(self._let_others_unmount)
        self._addresses = self._wait_for_daemons(own_hosts)
        lines = [hostfile.format_daemon(address) for address in self._addresses.values()]
        self._member.send({"is": "prepared", "lines": lines})
        order = self._wait_for("mount", JOB_START_TIMEOUT_S)
        _append_missing(own_hosts, order["lines"])
        jobs.write(job)
        if plan.mounts:
            mountdir = Path(job.mountdir)
            undo.enter_context(mounts.prepared(mountdir))
            how = Options(**plan.options)
            if mountdir.is_relative_to(state) and mounts.others_may_be_let_in():
                # Nobody but root gets there anyway; slurmstepd, which is root, must, to start steps.
                how = how._replace(allow_other=True)
            log = state / "mount.log"
            self._client = mount_in_background(
                own_hosts,
                mountdir,
                how,
                log,
                self._signals,
                die_with_us=True,
                job=job.name,
                patience_s=JOB_CONNECT_TIMEOUT_S,
            )
            undo.callback(self._unmount, mountdir, self._client)
        self._member.send({"is": "ready"})

    @contextlib.contextmanager
    def _state_folder(self, name: str) -> Iterator[Path]:
        cleaning.clear(name)
        folder = jobs.make_state_folder(name)
        lock = os.open(folder / jobs.LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(lock)
            if self._logs is not None:
                self._logs = {path.name: _tail(path) for path in sorted(folder.glob("*.log"))}
            self._left += cleaning.remove_state(folder)

    @contextlib.contextmanager
    def _data_folder(self, plan: Plan, name: str, state: Path) -> Iterator[Path]:
        parent = Path(plan.rootdir) if plan.rootdir else scratch.find()
        rootdirs.check_usable(parent)
        folder = parent / jobs.data_name(name)
        self._left += cleaning.remove_data(folder)  # of a file system that was killed
        try:
            folder.mkdir(mode=0o700)
            (state / jobs.DATA_NAME).symlink_to(folder)
        except OSError as error:
            raise GkfsError(f"rootdir {folder}: {error.strerror}", ExitStatus.ROOTDIR) from None
        try:
            yield folder
        finally:
            self._left += cleaning.remove_data(folder)

    def _start_daemon(self, plan: Plan, index: int, data: Path, state: Path, listen: str) -> Child:
        # At the end of a job Slurm signals all processes of a step at once; the mount needs the daemons longer.
        arguments = ["daemon", "--until-killed", "--rootdir", str(data), "--index", str(index)]
        arguments += ["--hostfile", str(state / jobs.HOSTS_NAME), "--listen", listen]
        arguments += Wanted.of(_features(plan)).arguments()
        if plan.interface:
            arguments += ["--advertise", addresses.of_interface(plan.interface)]
        if plan.capacity:
            arguments += ["--capacity", str(plan.capacity)]
        return children.spawn(f"daemon {index}", arguments, state / f"daemon-{index}.log", die_with_us=True)

    def _wait_for_daemons(self, own_hosts: Path) -> dict[int, DaemonAddress]:
        """This node's daemons, once all have written their lines."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            self._check_daemons()
            known = hostfiles.read_addresses(own_hosts).daemons
            if len(known) == len(self._daemons):
                return dict(known)
            if time.monotonic() > deadline_s:
                raise GkfsError(f"its daemons are not ready after {START_TIMEOUT_S:.0f} s", ExitStatus.UNREACHABLE)
            self._pause(POLL_INTERVAL_S)

    def _check_daemons(self) -> None:
        """Raises GkfsError when one has ended, with its reason."""
        for daemon in self._daemons.values():
            if daemon.ended:
                raise daemon.failure()

    # --- while it runs

    def _watch(self) -> None:
        """Until told to end; says of each child that ended."""
        reported: set[int] = set()
        while True:
            self._pause(JOB_STOP_TIMEOUT_S)
            for message in self._take("unmount", "end"):
                self._orderly = message["do"] == "unmount"
                return
            for index, child in [*self._daemons.items(), (None, self._client)]:
                if child is not None and child.ended and child.pid not in reported:
                    reported.add(child.pid)
                    again = index is not None and self._start_again(index)
                    self._member.send({"is": "lost", "message": str(child.failure()), "again": again})

    def _start_again(self, index: int) -> bool:
        """Another daemon for one that ended, on its data and its port: clients wait for it and go on."""
        if self._restarts >= DAEMON_RESTARTS_MAX:
            return False
        self._restarts += 1
        port = self._addresses[index].tcp.rpartition(":")[2]
        self._daemons[index] = self._restart(index=index, listen=f"tcp://0.0.0.0:{port}")
        return True

    # --- end

    def _unmount(self, mountdir: Path, client: Child) -> None:
        self._warnings += mounts.end(mountdir, client)
        records.remove(mountdir)  # a client that was killed has not

    def _let_others_unmount(self) -> None:
        """Daemons must live until no mount needs them any more, on any node."""
        self._tell({"is": "unmounted"})
        deadline_s = time.monotonic() + (JOB_STOP_TIMEOUT_S if self._orderly else JOB_END_GRACE_S)
        with contextlib.suppress(GangEnded):
            while time.monotonic() < deadline_s:
                self._signals.wait(deadline_s - time.monotonic(), self._member.fileno())
                self._arrived += self._member.take()
                if self._take("end"):
                    return

    def _end_daemons(self) -> None:
        """At once: nobody will read what a clean end would write."""
        children.end(self._daemons.values(), grace_s=0.0)

    # --- messages

    def _wait_for(self, order: str, timeout_s: float) -> Message:
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if self._take("unmount", "end"):
                raise _ToldToEnd
            for message in self._take(order):
                return message
            self._check_daemons()
            self._pause(deadline_s - time.monotonic())
        raise GkfsError(f"the leader did not say {order!r} within {timeout_s:.0f} s", ExitStatus.UNREACHABLE)

    def _pause(self, timeout_s: float) -> None:
        """Wait for a message, a child's end, or the time. Raises Interrupted or GangEnded."""
        if not self._arrived:
            self._signals.pause(timeout_s, self._member.fileno())
        self._arrived += self._member.take()

    def _take(self, *orders: str) -> list[Message]:
        found = [message for message in self._arrived if message.get("do") in orders]
        self._arrived = [message for message in self._arrived if message not in found]
        return found

    def _tell(self, message: Message) -> None:
        with contextlib.suppress(GangEnded):
            self._member.send(message)


def _tail(log: Path) -> str:
    """The end of a log, as much as a message takes."""
    try:
        return log.read_bytes()[-_LOG_KEPT_BYTES:].decode(errors="replace")
    except OSError as error:
        return f"{error.strerror}\n"


def _append_missing(own_hosts: Path, lines: list[str]) -> None:
    """The lines of the other nodes' daemons, into this node's hostfile."""
    known = own_hosts.read_text().splitlines(keepends=True)
    with own_hosts.open("a") as file:
        file.writelines(line for line in lines if line not in known)


def _use_cores(cores: list[int]) -> None:
    """Bind this process, and so all it starts, to *cores*."""
    usable = os.sched_getaffinity(0)
    missing = sorted(set(cores) - usable)
    if missing:
        raise GkfsError(
            f"core {missing[0]} is not among those of the job here, {_ranges(sorted(usable))}", ExitStatus.USAGE
        )
    os.sched_setaffinity(0, cores)


def _ranges(numbers: list[int]) -> str:
    """`0-3,8` for 0 1 2 3 8."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _features(plan: Plan) -> Features:
    checksums, sync, tls, replicas = plan.features
    return Features(checksums, Sync(sync), tls, replicas)
