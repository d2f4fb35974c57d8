"""gkfs in its variants: daemons as processes of their own, or whatever else has a command line."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import program
from benchmarks.processes import Failed, run, unmount, wait_until, with_argument
from benchmarks.systems.base import CLIENT, DAEMON, System
from gkfs import __version__
from gkfs.commands import control, hostfiles
from gkfs.config import LOG_VARIABLE
from gkfs.messages import StatusReply

GKFS = (sys.executable, "-m", "gkfs")


class Variant(NamedTuple):
    """How one variant is started. {root}, {hosts} and {mnt} stand for its folders and its hostfile.

    *commands*, of gkfs, are run one after another; afterwards the file system is mounted and {hosts} names its
    daemons. The client is the process that gkfs has noted as serving the mount, daemons are those that answer
    `gkfs status`; one within the client's process counts as client.
    """

    title: str
    commands: tuple[tuple[str, ...], ...]
    environment: Mapping[str, str] = {}  # of these commands, and of the processes they start


def _separate(count: int, *features: str) -> tuple[tuple[str, ...], ...]:
    return (
        ("start", "--rootdir", "{root}", "--hostfile", "{hosts}", "--daemons", str(count), *features),
        ("mount", "--hostfile", "{hosts}", "{mnt}"),
    )


def _embedded(*features: str) -> tuple[tuple[str, ...], ...]:
    return (
        (
            *("mount", "--hostfile", "{hosts}", "--with-daemon", "--rootdir", "{root}", "--index", "0"),
            *("--daemons", "1", "--listen", "tcp://127.0.0.1:0", *features, "{mnt}"),
        ),
    )


# Targets (benchmarks/targets.py) are about these names.
VARIANTS: dict[str, Variant] = {
    "gkfs-1": Variant("gkfs, 1 daemon", _separate(1)),
    "gkfs-2": Variant("gkfs, 2 daemons", _separate(2)),
    "gkfs-3": Variant("gkfs, 3 daemons", _separate(3)),
    "gkfs-4": Variant("gkfs, 4 daemons", _separate(4)),
    "gkfs-embedded": Variant("gkfs, 1 daemon in the client", _embedded()),
    "gkfs-1-unmerged": Variant("gkfs, 1 daemon, no merging", _separate(1), {"GKFS_MERGE": "0"}),
}


class Choice(NamedTuple):
    """Something that makes data safer, or less so: how, and what the variant with it is called."""

    title: str
    features: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}


CHOICES: Final = {
    "checksums": Choice("checksums", ("--checksums",)),
    "sync-commit": Choice("every commit synced", ("--sync", "commit")),
    "sync-none": Choice("nothing synced by fsync", ("--sync", "none")),
    "no-log": Choice("no write-ahead log", environment={LOG_VARIABLE: "0"}),
    "write-through": Choice("write-through", environment={"GKFS_WRITE_THROUGH": "1"}),
}
# Variants that differ from the named one by a choice. Measured when they are asked for.
SAFETY: Final = {f"{base}-{name}": base for base in ("gkfs-1", "gkfs-embedded") for name in CHOICES}
for _variant, _base in SAFETY.items():
    _choice = CHOICES[_variant.removeprefix(f"{_base}-")]
    _commands = _separate(1, *_choice.features) if _base == "gkfs-1" else _embedded(*_choice.features)
    VARIANTS[_variant] = Variant(f"{VARIANTS[_base].title}, {_choice.title}", _commands, _choice.environment)
SAFETY["gkfs-3-replicas"] = "gkfs-3"  # it takes three
VARIANTS["gkfs-3-replicas"] = Variant("gkfs, 3 daemons, two copies", _separate(3, "--replicas", "2"))


class Ours(System):
    """One variant of gkfs."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, folder)
        self._variant = VARIANTS[name]
        self._hosts = folder / "hosts"
        self._root = folder / "root"
        self._cost: dict[str, int] = {}  # what asking for the counters adds to them
        self._looks = 0
        self._processes: dict[str, list[int]] = {}

    @property
    def title(self) -> str:
        return self._variant.title

    def version(self) -> str:
        how = "" if program.IS_COMPILED else ", not compiled"
        try:
            revision = run(["git", "-C", program.ROOT, "describe", "--always", "--dirty"], 10.0).strip()
        except Failed:
            return f"gkfs {__version__}{how}"
        return f"gkfs {__version__}, {revision}{how}"

    def bring_up(self) -> None:
        self.backing("root")
        (self.folder / "run").mkdir(mode=0o700)
        for command in self._variant.commands:
            places = {"root": self._root, "hosts": self._hosts, "mnt": self.mountpoint}
            self._gkfs(*(word.format(**places) for word in command))
        wait_until(lambda: os.path.ismount(self.mountpoint), f"a mount of {self.name}")
        clients = self._clients()
        daemons = [status.pid for status in self._statuses() if status.pid not in clients]
        self._processes = {CLIENT: clients, DAEMON: daemons} if daemons else {CLIENT: clients}
        self._calibrate()

    def _clients(self) -> list[int]:
        """Serving the mount, as gkfs itself has noted it."""
        pids = [json.loads(path.read_text())["pid"] for path in (self.folder / "run/gkfs").glob("*.json")]
        if not pids:
            raise Failed(f"{self.name}: no process serves {self.mountpoint}")
        return pids

    def _statuses(self) -> list[StatusReply]:
        outcomes = control.statuses(hostfiles.read(self._hosts)).values()
        failed = [str(outcome) for outcome in outcomes if not isinstance(outcome, StatusReply)]
        if failed:
            raise Failed(f"{self.name}: {failed[0]}")
        return [outcome for outcome in outcomes if isinstance(outcome, StatusReply)]

    def _totals(self) -> dict[str, int]:
        statuses = self._statuses()
        return {
            "requests": sum(status.requests for status in statuses),
            "batches": sum(status.batches for status in statuses),
        }

    def _calibrate(self) -> None:
        """Each look at the counters is itself requests: of two looks at an idle system the difference is that."""
        first, second, third = self._totals(), self._totals(), self._totals()
        self._cost = {name: min(second[name] - first[name], third[name] - second[name]) for name in first}

    def counters(self) -> dict[str, int]:
        """Requests and batches of all daemons, without those that the looks at them were."""
        totals = self._totals()
        self._looks += 1
        return {name: total - self._looks * self._cost[name] for name, total in totals.items()}

    def processes(self) -> dict[str, list[int]]:
        return self._processes

    def bring_down(self) -> None:
        if os.path.ismount(self.mountpoint):
            try:
                self._gkfs("umount", self.mountpoint)
            except Failed:
                unmount(self.mountpoint)
        if self._hosts.exists() and with_argument(self._root):
            self._gkfs("stop", "--hostfile", self._hosts, "--purge")

    def _gkfs(self, *arguments: object) -> None:
        """In an environment without this user's settings and with a runtime folder of its own."""
        plain = {name: "" for name in os.environ if name.startswith("GKFS_")}  # empty counts as not set
        own = {"XDG_RUNTIME_DIR": str(self.folder / "run"), **program.ENVIRONMENT}
        run([*GKFS, *arguments], cwd=self.folder, env=plain | own | dict(self._variant.environment))
