"""A real file system for one test or many: daemons, mounts, and the certainty that nothing of them is left.

Everything is started by the command line a user types. The processes carry a mark of this file system in their
environment, by which they are found, and if need be killed, whatever became of them meanwhile.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks import program
from gkfs import hostfile
from gkfs.commands import survey
from gkfs.errors import GkfsError

REPOSITORY: Final = Path(__file__).resolve().parents[2]
GKFS: Final = (sys.executable, "-m", "gkfs")
# The limits of the command line itself are 30 s and less, but the machine may be busy: who takes this long hangs.
COMMAND_LIMIT_S: Final = 100
_GONE_LIMIT_S: Final = 60
_MARK: Final = "TEST_FILE_SYSTEM"
_TROUBLE: Final = re.compile(r"\b(ERROR|CRITICAL)\b|Traceback \(most recent call last\)|never awaited")


class FileSystem:
    """Daemons of one file system on this machine, and mounts of it, each of which counts as a node.

    *embedded*: daemon 0 runs in the process of the mount that is made while there is none, so that it comes and
    goes with it. *tls*: all is said over TCP, in TLS.
    """

    def __init__(
        self, folder: Path, daemons: int, *, embedded: bool = False, tls: bool = False, replicas: int = 1
    ) -> None:
        self.folder = folder
        self.daemons = daemons
        self.embedded = embedded
        self.tls = tls
        self.replicas = replicas
        self.rootdir = folder / "root"
        self.hostfile = folder / "hosts"
        self.mounts: list[Path] = []
        self.expected_trouble: list[str] = []  # patterns of log lines that the test provokes
        self.expected_faults: list[str] = []  # patterns of what fsck finds, likewise
        self.runtime = folder / "run"  # gkfs keeps records of mounts there
        self._mark = uuid.uuid4().hex
        self._mount_number = 0
        self._running: set[int] = set()  # daemons that should be alive
        self._lost = 0  # others have taken their places
        self._own: list[subprocess.Popen[bytes]] = []  # daemons started as processes of ours
        self._embedding: Path | None = None  # the mount with daemon 0 in its process
        self.rootdir.mkdir(parents=True)
        self.runtime.mkdir(mode=0o700)

    # --- the command line

    def gkfs(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `gkfs` with *arguments*; with *check* a failure is an AssertionError that shows its output."""
        command = [*GKFS, *map(str, arguments)]
        try:
            done = subprocess.run(
                command,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=COMMAND_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"gkfs {' '.join(command[3:])} hangs: {error}") from None
        if check:
            assert done.returncode == 0, (
                f"gkfs {' '.join(command[3:])}: {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def _environment(self) -> dict[str, str]:
        own = {_MARK: self._mark, "XDG_RUNTIME_DIR": str(self.runtime)}
        return os.environ | own | program.ENVIRONMENT

    def start(self) -> None:
        """Start all daemons; after a stop they find their data again."""
        if self.embedded:
            for index in range(1, self.daemons):
                self._start_daemon(index)
            return
        options = ["--replicas", str(self.replicas), *(["--tls"] if self.tls else [])]
        self.gkfs("start", "-r", self.rootdir, "-H", self.hostfile, "-n", str(self.daemons), *options)
        self._over_tcp()
        self._running = set(self.daemon_pids())

    def _over_tcp(self) -> None:
        """In TLS: take the Unix sockets away, which need none, so that everybody calls over TCP."""
        if self.tls:
            wait_until(lambda: all(self._takes_tcp_only(index) for index in range(self.daemons)), "TCP only")

    def _takes_tcp_only(self, index: int) -> bool:
        (self.rootdir / f"daemon-{index}" / "socket").unlink(missing_ok=True)
        return index in hostfile.read_addresses(self.hostfile).daemons

    def mount(self, *options: str) -> Path:
        """Mount once more; the new mount point."""
        mountdir = self.folder / f"mount-{self._mount_number}"
        self._mount_number += 1
        mountdir.mkdir()
        self.mounts.append(mountdir)
        embeds = self.embedded and self._embedding is None
        if embeds:
            count = str(self.daemons)
            options += ("--with-daemon", "-r", str(self.rootdir), "--index", "0", "-n", count, "--wait", "20")
            options += ("--listen", "tcp://127.0.0.1:0", *(["--tls"] if self.tls else []))
        self.gkfs("mount", "-H", self.hostfile, "--log", self.log_of(mountdir), *options, mountdir)
        if embeds:
            self._embedding = mountdir
            self._over_tcp()
            self._running = set(self.daemon_pids())
        assert os.path.ismount(mountdir), f"gkfs mount ended well, but {mountdir} is not mounted"
        return mountdir

    def umount(self, mountdir: Path) -> None:
        """Unmount by the command line; the client ends."""
        client = self.client_pid(mountdir)
        if mountdir == self._embedding:
            self._embedding = None
            self._running.discard(client)
        self.gkfs("umount", mountdir)
        assert not os.path.ismount(mountdir), f"{mountdir} is still mounted"
        wait_until(lambda: not is_alive(client), f"the client of {mountdir} (pid {client}) has ended")
        self.mounts.remove(mountdir)

    def stop(self) -> None:
        """Stop all daemons by the command line."""
        self._running.clear()
        if self._embedding is not None:
            self.embedding_ends()
        self.gkfs("stop", "-H", self.hostfile)

    def embedding_ends(self) -> None:
        """The mount with a daemon in its process ends from now on, and that is no fault."""
        assert self._embedding is not None
        self._running.discard(self.client_pid(self._embedding))
        self.mounts.remove(self._embedding)
        self._embedding = None

    def status(self) -> dict[str, Any]:
        """What `gkfs status --json` says."""
        answer = json.loads(self.gkfs("status", "-H", self.hostfile, "--json").stdout)
        assert isinstance(answer, dict)
        return answer

    def daemon_status(self) -> list[dict[str, Any]]:
        """The status of each daemon, by index."""
        daemons: list[dict[str, Any]] = self.status()["daemons"]
        return sorted(daemons, key=lambda daemon: int(daemon["daemon"]))

    # --- processes

    def processes(self) -> dict[int, list[str]]:
        """All processes of this file system, with their arguments."""
        mark = f"{_MARK}={self._mark}".encode()
        return {pid: arguments for pid, arguments, environment in _all_processes() if mark in environment}

    def daemon_pids(self) -> list[int]:
        """Process ids of the daemons, by index."""
        return [int(daemon["pid"]) for daemon in self.daemon_status()]

    def client_pid(self, mountdir: Path) -> int:
        """Process id of the client that serves *mountdir*."""
        pids = [pid for pid, arguments in self.processes().items() if str(mountdir) in arguments]
        assert len(pids) == 1, f"the client of {mountdir} is one of {pids}"
        return pids[0]

    def kill_daemon(self, index: int, after: Callable[[], object] = lambda: None) -> None:
        """End a daemon as a crash does: SIGKILL, right after a call of *after*."""
        if index == 0 and self.embedded:
            pytest.skip("daemon 0 is in the process of a mount, which would be killed, too")
        pid = self.daemon_pids()[index]
        self._running.discard(pid)
        after()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), f"daemon {index} (pid {pid}) is dead")

    def lose_daemon(self, index: int, how: signal.Signals) -> int:
        """End or freeze a daemon whose place others take, by the signal *how*; its process id."""
        pid = self.daemon_pids()[index]
        self._running.discard(pid)
        self._lost += 1
        os.kill(pid, how)
        return pid

    def kill_daemons(self) -> None:
        """End all daemons as a crash of all nodes does; none of them may be embedded."""
        assert not self.embedded
        pids = self.daemon_pids()
        self._running.clear()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, pids)), f"daemons {pids} are dead")

    def restart_daemon(self, index: int) -> None:
        """Start a daemon that was killed, as a process of ours; it answers when this returns."""
        self._start_daemon(index)
        self.gkfs("status", "-H", self.hostfile, "--wait", "60")
        self._over_tcp()
        self._running = set(self.daemon_pids())

    def _start_daemon(self, index: int) -> None:
        arguments = ("daemon", "-r", str(self.rootdir), "-H", str(self.hostfile), "-n", str(self.daemons))
        with open(self.folder / f"daemon-{len(self._own)}.log", "wb") as log:
            command = [*GKFS, *arguments, "--index", str(index), "--listen", "tcp://127.0.0.1:0"]
            command += ["--tls"] if self.tls else []
            self._own.append(subprocess.Popen(command, env=self._environment(), stdout=log, stderr=log))

    def kill_clients(self) -> None:
        """End all clients with SIGKILL, so that every call on a mount returns with an error."""
        for mountdir in self.mounts:
            for pid in [pid for pid, arguments in self.processes().items() if str(mountdir) in arguments]:
                os.kill(pid, signal.SIGKILL)

    # --- invariants

    def log_of(self, mountdir: Path) -> Path:
        """Where the client of *mountdir* writes its log."""
        return self.folder / f"{mountdir.name}.log"

    def logs(self) -> list[Path]:
        """All log files of daemons and clients."""
        return sorted([*self.folder.glob("*.log"), *self.runtime.glob("**/*.log"), *self.rootdir.glob("*/*.log")])

    def problems(self) -> list[str]:
        """What is wrong while the file system should be up: dead processes, troubles in the logs, faults."""
        found = [f"daemon of pid {pid} has died" for pid in self._running if not is_alive(pid)]
        clients = self.processes().values()
        for mountdir in self.mounts:
            if not any(str(mountdir) in arguments for arguments in clients):
                found.append(f"the client of {mountdir.name} has died")
        return found + self._log_problems() + self._faults()

    def _faults(self) -> list[str]:
        """What `gkfs fsck` finds, without the cost of the command."""
        if not self._are_all_up():
            return []
        try:
            faults = map(str, survey.check(hostfile.read(self.hostfile)).faults)
        except GkfsError as error:
            return [f"cannot be checked: {error}"]
        return [fault for fault in faults if not any(re.search(known, fault) for known in self.expected_faults)]

    def _are_all_up(self) -> bool:
        return len(self._running) == self.daemons - self._lost and all(map(is_alive, self._running))

    def _fsck(self) -> list[str]:
        """What the command itself has to say, once nothing is mounted any more."""
        if self.expected_faults or not self._are_all_up():
            return []
        done = self.gkfs("fsck", "-H", self.hostfile, check=False)
        return (
            [] if done.returncode == 0 else [f"gkfs fsck ends with {done.returncode}: {done.stdout}{done.stderr}"]
        )

    def _log_problems(self) -> list[str]:
        found = []
        for log in self.logs():
            lines = log.read_text(errors="replace").splitlines()
            for number, line in enumerate(lines):
                if _TROUBLE.search(line) and not any(
                    re.search(allowed, line) for allowed in self.expected_trouble
                ):
                    excerpt = "\n    ".join(lines[number : number + 30])
                    found.append(f"{os.path.relpath(log, self.folder)}, line {number + 1}:\n    {excerpt}")
                    break
        return found

    # --- the end

    def close(self) -> list[str]:
        """Unmount and stop everything in whatever state it is; what went wrong and what was left behind."""
        found = self.problems()
        if self.embedded and self._embedding is not None:  # the last one: its daemon is needed
            found += self._fsck()
            self.mounts.sort(key=lambda mountdir: mountdir == self._embedding)
        found += [f"cannot unmount: {error}" for error in _failures(self.umount, list(self.mounts))]
        if not self.embedded:
            found += self._fsck()
        if self._running:
            found += [f"cannot stop: {error}" for error in _failures(lambda _: self.stop(), [None])]
        found += self._leftovers()
        for process in self._own:
            process.wait()
        found += [problem for problem in self._log_problems() if problem not in found]
        if not found:
            shutil.rmtree(self.rootdir)
        return found

    def _leftovers(self) -> list[str]:
        found = []
        for mountdir in mountpoints_below(self.folder):
            found.append(f"{mountdir} is left mounted")
            subprocess.run(["umount", "-l", mountdir], check=False, capture_output=True)
        deadline_s = time.monotonic() + _GONE_LIMIT_S
        while (left := self.processes()) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        for pid, arguments in left.items():
            found.append(f"process {pid} is left: {' '.join(arguments)}")
            os.kill(pid, signal.SIGKILL)
        found += [f"{path} is left" for path in self.runtime.rglob("*") if path.is_file()]
        return found


def _failures(action: Callable[[Any], None], arguments: list[Any]) -> Iterator[str]:
    for argument in arguments:
        try:
            action(argument)
        except (AssertionError, OSError) as error:
            yield str(error)


def _all_processes() -> Iterator[tuple[int, list[str], list[bytes]]]:
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            yield int(folder.name), arguments, (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile


def is_alive(pid: int) -> bool:
    """Whether *pid* runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def mountpoints_below(folder: Path) -> list[str]:
    """Mount points in *folder*, the innermost first."""
    found = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [mountdir for mountdir in reversed(found) if mountdir.startswith(f"{folder}/")]


def wait_until(
    condition: Callable[[], bool], fact: str, limit_s: float = _GONE_LIMIT_S, every_s: float = 0.02
) -> None:
    """Wait for *condition*; AssertionError that names *fact* when it does not come true in *limit_s*."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {limit_s} s: {fact}"
        time.sleep(every_s)


def resident_bytes(pid: int) -> int:
    """Memory of *pid* that is in use now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
