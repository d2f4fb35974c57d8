"""The leader of a job's file system: has a `gkfs node` started on every node, and leads all of them.

    start    all nodes join, start their daemons, learn of all daemons, mount; ready when the last one is
    watch    says which daemon or mount was lost, and waits for the end
    stop     all nodes unmount; then all end their daemons and remove what they made

A failure of one node ends the others. What a node says is told with its name.
"""

import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gkfs.commands import cleaning, hostfiles, jobs, terminal
from gkfs.commands.jobs import Job
from gkfs.commands.launchers import Places
from gkfs.commands.members import Members
from gkfs.commands.mount import Options
from gkfs.commands.node import Plan
from gkfs.commands.signals import Interrupted, Signals
from gkfs.errors import ExitStatus, GkfsError
from gkfs.gang import VISITOR_RANK, Event
from gkfs.gang_wire import Message
from gkfs.hostfile import Features
from gkfs.limits import DAEMONS_MAX, END_GRACE_S, JOB_START_TIMEOUT_S, JOB_STOP_TIMEOUT_S, POLL_INTERVAL_S

_OTHERS_TOO_S = 0.2  # what one node cannot do others often cannot, either: they are counted


class Wishes(NamedTuple):
    """What the user asked for; None takes what each node finds fit."""

    name: str
    places: Places
    serving: tuple[str, ...]
    mounting: tuple[str, ...]
    rootdir: Path | None
    mountdir: Path | None
    daemons: int  # on each node that serves
    interface: str | None
    listen: str
    cores: list[int]
    options: Options
    log: Path | None  # for what all nodes' daemons and mounts had to say
    features: Features
    capacity: int | None = None  # bytes, of each daemon


class Leader:
    """Leads the nodes of one file system: `start`, `watch` now and then, `stop`, `close`."""

    def __init__(self, wishes: Wishes, signals: Signals) -> None:
        if len(wishes.serving) * wishes.daemons > DAEMONS_MAX:
            raise GkfsError(f"more than {DAEMONS_MAX} daemons", ExitStatus.USAGE)
        self._wishes = wishes
        self._signals = signals
        self._hosts = [host for host in wishes.places.hosts if host in {*wishes.serving, *wishes.mounting}]
        self._members = Members(Places(wishes.places.launcher, tuple(self._hosts)), tls=wishes.features.tls)
        self._gang = self._members.gang
        self.log = self._members.log
        self._names: dict[int, str] = {}  # by rank
        self._said: dict[str, dict[int, Message]] = {}
        self._failures: dict[int, GkfsError] = {}
        self._visitors: list[int] = []
        mountdir = wishes.mountdir or jobs.state_folder(wishes.name) / jobs.MOUNT_NAME
        self.job = Job(
            wishes.name,
            hostfiles.new_fsid(),
            wishes.places.launcher.value,
            tuple(self._hosts),
            wishes.serving,
            wishes.mounting,
            str(mountdir),
            self._gang.environment,
        )
        self._own_folder: Path | None = None  # where no node of the job has one
        self.lines: list[str] = []

    # --- start

    def start(self) -> None:
        """Return when the file system is mounted everywhere.

        Raises GkfsError with the reason of the first node that failed, or Interrupted; nothing is left then.
        """
        try:
            self._members.launch(["node"])
            deadline_s = time.monotonic() + JOB_START_TIMEOUT_S
            self._wait_for("joined", deadline_s)
            self._members.have_joined()
            for rank, plan in self._plans().items():
                self._gang.send(rank, {"do": "prepare", "plan": plan._asdict()})
            self._wait_for("prepared", deadline_s)
            self.lines = [line for _, message in self._in_order("prepared") for line in message["lines"]]
            self._gang.broadcast({"do": "mount", "lines": self.lines})
            self._wait_for("ready", deadline_s)
            if socket.gethostname() not in self._names.values() and not jobs.find(self.job.name):
                self._note_here()
        except BaseException:
            self._end_all(orderly=False)
            self.close()
            raise

    def _plans(self) -> dict[int, Plan]:
        """What each rank is to do: daemons are numbered in the order of the nodes."""
        wishes = self._wishes
        total = len(wishes.serving) * wishes.daemons
        common: dict[str, Any] = {
            "job": self.job._replace(gang={})._asdict(),  # its key was handed to them by who started them
            "total_daemons": total,
            "rootdir": str(wishes.rootdir) if wishes.rootdir else None,
            "interface": wishes.interface,
            "listen": wishes.listen,
            "cores": wishes.cores,
            "options": wishes.options._asdict(),
            "capacity": wishes.capacity,
            "keeps_logs": wishes.log is not None,
            "features": wishes.features,
        }
        first = {host: place * wishes.daemons for place, host in enumerate(wishes.serving)}
        return {
            rank: Plan(
                first_daemon=first.get(host, 0),
                daemons=wishes.daemons if host in first else 0,
                mounts=host in wishes.mounting,
                **common,
            )
            for host, rank in self._ranks().items()
        }

    def _ranks(self) -> dict[str, int]:
        """Which rank is on which host; nodes may name themselves with or without domain. Raises GkfsError."""
        if len(self._hosts) == 1:
            return {self._hosts[0]: next(iter(self._names))}
        known = {host.partition(".")[0]: host for host in self._hosts} | {host: host for host in self._hosts}
        ranks: dict[str, int] = {}
        for rank, name in self._names.items():
            host = known.get(name) or known.get(name.partition(".")[0])
            if host is None or host in ranks:
                again = "twice" if host else "which is none of the nodes"
                raise GkfsError(f"{name} has joined, {again}", ExitStatus.UNREACHABLE)
            ranks[host] = rank
        return ranks

    def _note_here(self) -> None:
        """This host is not a node of the job (salloc on a login node): `gkfs stop` and others look here, too."""
        self._own_folder = jobs.make_state_folder(self.job.name)
        count, features = len(self.lines), self._wishes.features
        hostfiles.create(self.job.hostfile, self.job.fsid, count, self.job.key, features)
        with self.job.hostfile.open("a") as file:
            file.writelines(self.lines)
        jobs.write(self.job)

    # --- while it runs

    def watch(self) -> bool:
        """Take what has come: say what was lost; True when the end was asked for or has begun, or none is left."""
        self._take(self._gang.poll(0))
        for rank, message in self._said.pop("lost", {}).items():
            what = "it is started again" if message["again"] else "what needs it fails from now on"
            terminal.warn(f"{self._names[rank]}: {message['message']}; {what}")
        return not self._said.keys().isdisjoint({"stop", "unmounted", "ended"}) or not self._gang.ranks

    def fileno(self) -> int:
        """Readable when `watch` has something to do."""
        return self._gang.fileno()

    # --- end

    def stop(self) -> list[str]:
        """Unmount, end and remove everything, on all nodes. What to warn of, with the node's name."""
        self._end_all(orderly=True)
        warnings, left = self._warnings("warnings"), self._left()
        for visitor in self._visitors:
            self._gang.send(visitor, {"is": "stopped", "warnings": warnings, "left": left})
        self._gang.flush(END_GRACE_S)
        return warnings + left

    def close(self) -> None:
        """Nothing is listened to any more."""
        self._members.close()

    def _end_all(self, orderly: bool) -> None:
        deadline_s = time.monotonic() + JOB_STOP_TIMEOUT_S
        if orderly:
            self._gang.broadcast({"do": "unmount"})
            self._gather("unmounted", deadline_s)
        self._gang.broadcast({"do": "end"})
        self._gather("ended", deadline_s)
        self._members.wait()
        if self._wishes.log is not None:
            self._keep_logs(self._wishes.log)
        if self._own_folder is not None:
            cleaning.remove_state(self._own_folder)

    def _keep_logs(self, log: Path) -> None:
        try:
            with log.open("a") as file:
                for node, message in self._in_order("ended"):
                    for name, text in message["logs"].items():
                        file.writelines(f"{node} {name}: {line}\n" for line in text.splitlines())
        except OSError as error:
            terminal.warn(f"log {log}: {error.strerror}")

    def _warnings(self, kind: str) -> list[str]:
        return [f"{node}: {text}" for node, message in self._in_order("ended") for text in message[kind]]

    def _left(self) -> list[str]:
        """What may still be on the nodes."""
        silent = self._without("ended")
        return [*self._warnings("left"), *(f"{name} did not say that it has ended: look at it" for name in silent)]

    def _gather(self, answer: str, deadline_s: float) -> None:
        """Wait until all that are still connected have given *answer*, whatever else they say."""
        while set(self._gang.ranks) - set(self._said.get(answer, {})) and time.monotonic() < deadline_s:
            self._take(self._gang.poll(deadline_s - time.monotonic()))

    # --- messages

    def _wait_for(self, answer: str, deadline_s: float) -> None:
        """Until all nodes have given *answer*. Raises GkfsError when one fails, ends or is late; Interrupted."""
        while len(self._said.get(answer, {})) < len(self._hosts):
            self._signals.pause(min(POLL_INTERVAL_S * 10, deadline_s - time.monotonic()), self._gang.fileno())
            self._take(self._gang.poll(0))
            if self._failures:
                self._take(self._gang.poll(_OTHERS_TOO_S))
                raise self._failure()
            for child in self._members.started:
                if child.ended and (child.process.returncode or not self._gang.ranks):
                    raise child.failure()
            if time.monotonic() > deadline_s:
                raise self._late(answer)

    def _take(self, events: Sequence[Event]) -> None:
        for rank, message in events:
            if message is None:
                if rank < VISITOR_RANK and rank not in self._said.get("ended", {}):
                    self._gone(rank)
                continue
            kind = str(message.get("is"))
            if kind == "joined":
                self._names[rank] = str(message["host"])
            elif kind == "failed":
                self._fail(rank, str(message["message"]), ExitStatus(message["status"]))
            elif kind == "stop" and rank >= VISITOR_RANK:
                self._visitors.append(rank)
            self._said.setdefault(kind, {})[rank] = message

    def _gone(self, rank: int) -> None:
        if "ready" in self._said:
            lost = {"message": "its part has ended without a word", "again": False}
            self._said.setdefault("lost", {})[rank] = lost
        else:
            self._fail(rank, "ended without a word", ExitStatus.FAILURE)

    def _fail(self, rank: int, reason: str, status: ExitStatus) -> None:
        self._failures.setdefault(rank, GkfsError(f"{self._names.get(rank, f'node {rank}')}: {reason}", status))

    def _failure(self) -> GkfsError:
        first = self._failures[min(self._failures)]
        more = len(self._failures) - 1
        return GkfsError(f"{first}{f' ({more} more so)' if more else ''}", first.status)

    def _late(self, answer: str) -> GkfsError:
        absent = len(self._hosts) - len(self._said.get(answer, {}))
        who = ", ".join(self._without(answer)[:5]) or f"{absent} of {len(self._hosts)} nodes"
        tail = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        said = f"; last words: {tail[-1]}" if tail else ""
        return GkfsError(
            f"{who}: not {answer} {JOB_START_TIMEOUT_S:.0f} s after the start{said}", ExitStatus.UNREACHABLE
        )

    def _in_order(self, answer: str) -> list[tuple[str, Message]]:
        """Who has said *answer*, and how, by rank."""
        return [(self._names[rank], message) for rank, message in sorted(self._said.get(answer, {}).items())]

    def _without(self, answer: str) -> list[str]:
        """Who has joined and not said *answer*, by rank."""
        said = self._said.get(answer, {})
        return [name for rank, name in sorted(self._names.items()) if rank not in said]


def until_the_end(leader: Leader, signals: Signals) -> list[str]:
    """Watch the nodes until somebody asks for the end, or a signal does; then stop. What to warn of."""
    try:
        while not leader.watch():
            signals.pause(JOB_STOP_TIMEOUT_S, leader.fileno())
    except Interrupted:
        pass
    warnings = leader.stop()
    leader.close()
    return warnings
