"""Daemons die with SIGKILL at each step of an operation, and come back while its caller waits."""

import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import program
from gkfs.distributor import Distributor
from gkfs.paths import inode_address
from tests.mount.calls import noise
from tests.mount.file_system import FileSystem, wait_until
from tests.mount.mortal_daemon import Plan

DAEMONS: Final = 3
Names = dict[str, str]  # by path: which file it is, "/" for a directory; names of one file are links of each other

_MORTAL: Final = (sys.executable, "-m", "tests.mount.mortal_daemon")
_CALL_LIMIT_S: Final = 100.0  # it fails by itself after a minute (limits.REQUEST_TIMEOUT_S)
_QUIET_S: Final = 0.05  # without a step: nothing goes on in the background, nor is about to
_STEPS_PER_ROUND: Final = 16
_AGAIN_STEPS: Final = 7


class Operation(NamedTuple):
    """What is there before, a call in the folder of all that, and what is there afterwards."""

    before: Names
    call: Callable[[Path], None]
    after: Names
    fails_with: int = 0


class MortalFileSystem(FileSystem):
    """Its daemons die at the step they are told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, DAEMONS)
        self.plan = Plan(folder / "plan")
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start all daemons as processes of ours."""
        for index in range(self.daemons):
            self._spawn(index)
        self.gkfs("status", "-H", self.hostfile, "--wait", "60")

    def _spawn(self, index: int) -> None:
        command = [*_MORTAL, str(self.folder / "plan"), str(index), "daemon", "-r", str(self.rootdir)]
        command += ["-H", str(self.hostfile), "-n", str(self.daemons), "--index", str(index)]
        with open(self._log(index), "ab") as log:
            process = subprocess.Popen(
                [*command, "--listen", "tcp://127.0.0.1:0"],
                cwd=self.folder,
                env=self._environment() | {"PYTHONPATH": str(program.ROOT)},  # whose steps it can count
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._processes[index] = process
        self._own.append(process)
        self._running.add(process.pid)

    def close(self) -> list[str]:
        """End it, see FileSystem."""
        found = super().close()
        self.plan.close()
        return found

    def is_dead(self, index: int) -> bool:
        """Whether the daemon has reached its end."""
        return self._processes[index].poll() is not None

    def revive(self, index: int) -> None:
        """Start a dead daemon again; it serves when this returns, or is dead once more."""
        process = self._processes[index]
        assert process.returncode == -9, f"daemon {index} ended with {process.returncode}"
        self._running.discard(process.pid)
        before = self._starts(index)
        self._spawn(index)
        wait_until(lambda: self.is_dead(index) or self._starts(index) > before, f"daemon {index} is back")

    def _starts(self, index: int) -> int:
        return self._log(index).read_text().count(" serves file system ")

    def _log(self, index: int) -> Path:
        return self.folder / f"daemon-{index}.log"

    def wait_quiet(self, ended: Callable[[], bool] = lambda: False) -> None:
        """Wait until no daemon has done a step for a while, or *ended*."""
        before, since_s = [-1], 0.0
        while not ended():
            steps = [self.plan.steps(index) for index in range(self.daemons)]
            if steps != before:
                before, since_s = steps, time.monotonic()
            elif time.monotonic() - since_s > _QUIET_S:
                return
            time.sleep(0.003)


class _Call:
    """A call in a thread of its own, and how it ended."""

    def __init__(self, call: Callable[[Path], None], folder: Path) -> None:
        self.errno = 0
        self._call = call
        self._folder = folder
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call(self._folder)
        except OSError as error:
            self.errno = error.errno or -1

    def join(self) -> None:
        self._thread.join(_CALL_LIMIT_S)
        assert not self._thread.is_alive(), f"the call does not return within {_CALL_LIMIT_S} s"

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()


def kill_at_steps(file_system: MortalFileSystem, operation: Operation, victim: int, share: int) -> tuple[int, int]:
    """Do *operation* again and again while *victim* dies at one step after the other.

    With *share* only so many of its steps, and a few more of many, are taken, evenly spread; every second time the
    daemon that comes back dies, too, while it takes up what was left. With 0 each is taken, with that and without.
    Returns how many steps there are, and how often the victim died at one.
    """
    _, count = _run(file_system, operation, victim, 0, 0)
    rounds = share + count // _STEPS_PER_ROUND
    taken = (
        range(1, count + 1) if not share or rounds >= count else [1 + k * count // rounds for k in range(rounds)]
    )
    deaths = 0
    for position, at in enumerate(taken):
        again = 1 + position % _AGAIN_STEPS
        for later in (0, again) if not share else (again if position % 2 else 0,):
            died, steps = _run(file_system, operation, victim, at, later)
            if not died and steps:  # work in the background was counted, too: there are fewer steps today
                died, _ = _run(file_system, operation, victim, steps, later)
            deaths += died
    return count, deaths


def _run(
    file_system: MortalFileSystem, operation: Operation, victim: int, at: int, again: int
) -> tuple[bool, int]:
    """One round; whether *victim* came to its *at*-th step and died, and how many steps it did."""
    here, there = (mountdir / "work" for mountdir in file_system.mounts)
    what = f"daemon {victim}, step {at}, and {again} steps later" if again else f"daemon {victim}, step {at}"
    make(here, operation.before)
    file_system.wait_quiet()
    file_system.plan.arm(victim, at, again)
    call = _Call(operation.call, here)
    revived = 0
    while True:
        wait_until(lambda: file_system.is_dead(victim) or call.is_done, "the call returns or the daemon dies")
        if call.is_done:
            file_system.wait_quiet(lambda: file_system.is_dead(victim))
        if not file_system.is_dead(victim):
            break
        revived += 1
        file_system.revive(victim)
    call.join()
    steps, deaths = file_system.plan.disarm(victim)
    if deaths > revived:  # just now, by what is tried again after a pause
        wait_until(lambda: file_system.is_dead(victim), f"daemon {victim} is dead")
        file_system.revive(victim)
    assert call.errno == operation.fails_with, f"{what}: {os.strerror(call.errno)}"
    for folder in (here, there):
        assert_names(folder, operation.after, what)
    problems = file_system.problems()
    assert not problems, "\n".join([what, *problems])
    remove(there, operation.after)
    for folder in (here, there):
        assert os.listdir(folder) == [], what
    return deaths > 0, steps


def content(label: str) -> bytes:
    """What is in a file: in capital letters two chunks, else few bytes."""
    return noise(1_050_000 if label.isupper() else 3000, seed=sum(label.encode()))


def make(folder: Path, names: Names) -> None:
    """Make all *names* in the empty *folder*."""
    first: dict[str, Path] = {}
    for name, label in names.items():
        if label == "/":
            (folder / name).mkdir()
        elif label in first:
            os.link(first[label], folder / name)
        else:
            first[label] = folder / name
            _make_file(first[label])
            first[label].write_bytes(content(label))


def _make_file(path: Path) -> None:
    """Make an empty file that has its record on daemon 2, should it ever get several names."""
    distributor = Distributor(DAEMONS)
    while True:
        path.touch(exist_ok=False)
        if distributor.path_owner(inode_address(path.stat().st_ino)) == 2:
            return
        path.unlink()


def assert_names(folder: Path, names: Names, what: str) -> None:
    """Exactly *names* are in *folder*, with the contents and link counts they should have."""
    found = {os.path.relpath(entry, folder): os.lstat(entry) for entry in _walk(folder)}
    assert sorted(found) == sorted(names), f"{what}: {sorted(found)}"
    inodes: dict[str, set[int]] = {}
    for name, label in names.items():
        status = found[name]
        assert stat.S_ISDIR(status.st_mode) == (label == "/"), (what, name)
        if label == "/":
            continue
        inodes.setdefault(label, set()).add(status.st_ino)
        assert status.st_nlink == list(names.values()).count(label), (what, name, status.st_nlink)
        assert (folder / name).read_bytes() == content(label), (what, name)
    assert all(len(numbers) == 1 for numbers in inodes.values()), (what, inodes)
    assert len(set.union(set(), *inodes.values())) == len(inodes), (what, inodes)


def _walk(folder: Path) -> list[str]:
    found = []
    for top, folders, files in os.walk(folder):
        found += [os.path.join(top, name) for name in folders + files]
    return found


def remove(folder: Path, names: Names) -> None:
    """Remove everything again."""
    for name in sorted(names, reverse=True):
        (folder / name).rmdir() if names[name] == "/" else (folder / name).unlink()
