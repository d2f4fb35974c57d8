"""Daemons, clients and programs that stand still: what needs them fails in time, and all else goes on.

A frozen process (SIGSTOP) keeps its connections and takes what is sent to it, but does not answer.
"""

import errno
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from gkfs.distributor import Distributor
from gkfs.limits import END_GRACE_S, SILENT_TIMEOUT_S, STOP_TIMEOUT_S
from gkfs.paths import ROOT
from tests.mount.calls import MIB, errno_of, fails, noise, opened
from tests.mount.conftest import Cluster
from tests.mount.file_system import FileSystem, is_alive, wait_until

_DAEMONS: Final = 3
_TIMEOUT_S: Final = 3.0
_BUSY_MACHINE_S: Final = 5.0  # a command starts within, however much else is going on
_DISTRIBUTOR: Final = Distributor(_DAEMONS)
_ROOT: Final = _DISTRIBUTOR.path_owner(ROOT)
_VICTIM: Final = (_ROOT + 1) % _DAEMONS  # without that of the root nothing can be used
_OTHER: Final = (_ROOT + 2) % _DAEMONS


def _name(folder: Path | None, owner: int, prefix: str = "f") -> str:
    """A name that starts with *prefix*, in a folder of the root, whose record is on daemon *owner*."""
    above = f"/{folder.name}" if folder else ""
    names = (f"{prefix}{number}" for number in range(1000))
    return next(name for name in names if _DISTRIBUTOR.path_owner(f"{above}/{name}".encode()) == owner)


@contextmanager
def _frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # killed meanwhile, and waited for by who is there for it
            os.kill(pid, signal.SIGCONT)


def _takes(call: Callable[[], object], number: int, limit_s: float) -> None:
    """*call* ends with errno *number* in time."""
    begun_s = time.monotonic()
    assert errno_of(call) == number
    took_s = time.monotonic() - begun_s
    assert took_s < limit_s, f"{took_s:.2f} s"


class _Busy:
    """Uses a file all the time, in a thread; *longest_s*: of a call."""

    def __init__(self, path: Path, file: int) -> None:
        self.longest_s = 0.0
        self._ended = False
        self._thread = threading.Thread(target=self._run, args=(path, file))
        self._thread.start()

    def _run(self, path: Path, file: int) -> None:
        calls: list[Callable[[], object]] = [lambda: os.pwrite(file, b"x", 0), path.stat, path.read_bytes]
        while not self._ended:
            for call in calls:
                begun_s = time.monotonic()
                call()
                self.longest_s = max(self.longest_s, time.monotonic() - begun_s)
            time.sleep(0.01)

    def end(self) -> None:
        self._ended = True
        self._thread.join()


def test_a_frozen_daemon_is_an_error_in_time_and_holds_up_no_other(cluster: Cluster) -> None:
    file_system = cluster(_DAEMONS, mounts=0)
    file_system.expected_faults.append("^beyond: ")  # what a write that failed has done nevertheless
    mountdir = file_system.mount("--request-timeout", str(_TIMEOUT_S))
    folder = mountdir / _name(None, _OTHER, "folder")
    folder.mkdir()
    of_victim, of_other = folder / _name(folder, _VICTIM), folder / _name(folder, _OTHER)
    for path in (of_victim, of_other):
        path.write_bytes(noise(100))
    time.sleep(0.5)  # nothing is known from before
    with opened(of_other, os.O_RDWR) as file, _frozen(file_system.daemon_pids()[_VICTIM]):
        busy = _Busy(of_other, file)
        # The kernel asks twice for a name that it knew: not twice as long.
        limit_s = _TIMEOUT_S + 2 * SILENT_TIMEOUT_S + 1
        _takes(of_victim.stat, errno.ETIMEDOUT, limit_s)
        _takes((folder / _name(folder, _VICTIM, "new")).touch, errno.ETIMEDOUT, limit_s)
        _takes((folder / _name(folder, _OTHER, "new")).touch, 0, 2)
        _takes(lambda: os.listdir(folder), errno.ETIMEDOUT, limit_s)
        _takes(lambda: os.statvfs(mountdir), errno.ETIMEDOUT, limit_s)
        _takes(lambda: os.rename(of_victim, folder / "elsewhere"), errno.ETIMEDOUT, limit_s)
        _takes(
            lambda: (folder / _name(folder, _OTHER, "large")).write_bytes(noise(8 * MIB)),
            errno.ETIMEDOUT,
            4 * limit_s,
        )
        answer = file_system.gkfs("status", "-H", file_system.hostfile, check=False)
        assert answer.returncode == 6
        assert f"daemon {_VICTIM}" in answer.stderr
        busy.end()
        assert busy.longest_s < 2, "files of other daemons were not to be had meanwhile"
    assert f"daemon {_VICTIM}" in file_system.log_of(mountdir).read_text()
    assert of_victim.read_bytes() == noise(100)
    assert {of_victim.name, of_other.name} <= set(os.listdir(folder))
    (folder / _name(folder, _VICTIM, "later")).write_bytes(noise(3 * MIB))
    assert (folder / _name(folder, _VICTIM, "later")).read_bytes() == noise(3 * MIB)


def test_a_short_freeze_is_a_pause_and_nothing_is_done_twice(cluster: Cluster) -> None:
    file_system = cluster(_DAEMONS, mounts=2)
    here, there = file_system.mounts
    lines: list[bytes] = []
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            step = len(lines)
            for mountdir in (here, there):
                with opened(mountdir / "lines", os.O_WRONLY | os.O_APPEND | os.O_CREAT) as file:
                    os.write(file, b"%d\n" % len(lines))
                lines.append(b"%d\n" % len(lines))
            with opened(here / f"{step}.tmp", os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
                os.write(file, b"%d" % step)
            os.rename(here / f"{step}.tmp", there.parent / here.name / f"{step}")
            if step % 4 == 0:
                os.unlink(there / f"{step}")

    failures: list[str] = []

    def guarded() -> None:
        try:
            work()
        except Exception as error:
            failures.append(repr(error))

    thread = threading.Thread(target=guarded)
    thread.start()
    for daemon, pid in enumerate(file_system.daemon_pids()):
        with _frozen(pid):
            time.sleep(1.5)
        before = len(lines)
        wait_until(lambda before=before: bool(failures) or len(lines) > before + 4, f"it goes on after {daemon}")  # type: ignore[misc]
    ended.set()
    thread.join()
    assert failures == []
    assert (there / "lines").read_bytes() == b"".join(lines)
    steps = {str(step) for step in range(0, len(lines), 2) if step % 4}
    assert set(os.listdir(there)) == steps | {"lines"}


def test_what_has_timed_out_is_done_once_or_not_at_all(cluster: Cluster) -> None:
    file_system = cluster(_DAEMONS, mounts=0)
    mountdir = file_system.mount("--request-timeout", "1")
    path = mountdir / _name(None, _VICTIM)
    acknowledged, attempted = [], []
    with opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as file:
        for number in range(30):
            line = b"%d\n" % number
            attempted.append(line)
            if number % 10 == 5:
                with _frozen(file_system.daemon_pids()[_VICTIM]), fails(errno.ETIMEDOUT):
                    os.write(file, line)
            else:
                os.write(file, line)
                acknowledged.append(line)
    found = [line for line in path.read_bytes().replace(b"\0", b"").splitlines(keepends=True) if line]
    assert [line for line in found if line in acknowledged] == acknowledged
    assert len(found) == len(set(found))
    assert set(found) <= set(attempted)
    new = mountdir / _name(None, _VICTIM, "new")
    with _frozen(file_system.daemon_pids()[_VICTIM]):
        assert errno_of(lambda: os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL)) == errno.ETIMEDOUT
    if new.exists():
        new.unlink()
    assert not new.exists()


# --- the end


def _end_by_hand(file_system: FileSystem) -> None:
    """Nothing is up any more, and that is no fault."""
    file_system.mounts.clear()
    file_system._running.clear()


def _stop(file_system: FileSystem, victim: int | None) -> None:
    """`gkfs stop` comes back in time; a frozen *victim* is named, and can be stopped when it goes on."""
    begun_s = time.monotonic()
    answer = file_system.gkfs("stop", "-H", file_system.hostfile, check=False)
    assert time.monotonic() - begun_s < STOP_TIMEOUT_S + 2 * _BUSY_MACHINE_S
    if victim is not None:
        assert answer.returncode == 6, answer.stderr
        assert re.search(f"daemon {_VICTIM} .* does not answer and may still run, process {victim}", answer.stderr)
        os.kill(victim, signal.SIGCONT)
        answer = file_system.gkfs("stop", "-H", file_system.hostfile, check=False)
    assert answer.returncode == 0, answer.stderr
    _end_by_hand(file_system)


@pytest.mark.parametrize("state", ["frozen", "gone"])
def test_umount_and_stop_come_back_with_one_daemon(state: str, cluster: Cluster) -> None:
    file_system = cluster(_DAEMONS)
    mountdir = file_system.mounts[0]
    (mountdir / _name(None, _VICTIM)).write_bytes(noise(MIB))
    pid = file_system.daemon_pids()[_VICTIM]
    client = file_system.client_pid(mountdir)
    if state == "frozen":
        os.kill(pid, signal.SIGSTOP)
    else:
        file_system.kill_daemon(_VICTIM)
    begun_s = time.monotonic()
    file_system.gkfs("umount", mountdir)
    assert time.monotonic() - begun_s < 2 * END_GRACE_S + _BUSY_MACHINE_S
    assert not is_alive(client)
    _stop(file_system, pid if state == "frozen" else None)


@pytest.mark.parametrize("option", ["--force", "--lazy"])
def test_umount_comes_back_with_a_program_that_waits_for_a_frozen_daemon(option: str, cluster: Cluster) -> None:
    file_system = cluster(_DAEMONS)
    mountdir = file_system.mounts[0]
    pid = file_system.daemon_pids()[_VICTIM]
    client = file_system.client_pid(mountdir)
    os.kill(pid, signal.SIGSTOP)
    waiting = subprocess.Popen(["cat", mountdir / _name(None, _VICTIM)], cwd=mountdir, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    begun_s = time.monotonic()
    refused = file_system.gkfs("umount", mountdir, check=False)
    assert (refused.returncode, "in use" in refused.stderr) == (4, True)
    assert time.monotonic() - begun_s < _BUSY_MACHINE_S
    file_system.gkfs("umount", option, mountdir)
    assert time.monotonic() - begun_s < 2 * END_GRACE_S + 2 * _BUSY_MACHINE_S
    assert not os.path.ismount(mountdir)
    if option == "--force":
        assert waiting.wait(_BUSY_MACHINE_S) != 0
        assert not is_alive(client)
    os.kill(pid, signal.SIGCONT)
    _stop(file_system, None)
    assert waiting.wait(100) != 0
    wait_until(lambda: not is_alive(client), "the client has ended")


def test_umount_comes_back_with_a_frozen_client(cluster: Cluster) -> None:
    file_system = cluster(2)
    mountdir = file_system.mounts[0]
    (mountdir / "file").write_bytes(noise(MIB))
    client = file_system.client_pid(mountdir)
    os.kill(client, signal.SIGSTOP)
    begun_s = time.monotonic()
    answer = file_system.gkfs("umount", mountdir, check=False)
    assert time.monotonic() - begun_s < STOP_TIMEOUT_S + _BUSY_MACHINE_S
    assert (answer.returncode, f"process {client}, is stopped" in answer.stderr) == (1, True)
    assert not os.path.ismount(mountdir)
    begun_s = time.monotonic()
    file_system.gkfs("umount", "--force", mountdir)
    assert time.monotonic() - begun_s < 2 * END_GRACE_S + _BUSY_MACHINE_S
    assert not is_alive(client)
    assert (file_system.mount() / "file").read_bytes() == noise(MIB)
    file_system.mounts.remove(mountdir)


def test_a_frozen_client_does_not_hold_up_other_nodes_or_the_end(cluster: Cluster) -> None:
    file_system = cluster(2, mounts=2)
    here, there = file_system.mounts
    (here / "file").write_bytes(b"written here")
    os.listdir(here)
    client = file_system.client_pid(here)
    with _frozen(client):
        for number in range(20):  # what it had leased is waited for once, not for ever
            _takes(lambda number=number: (there / "file").write_bytes(b"%d" % number), 0, 2)  # type: ignore[misc]
            _takes(lambda number=number: (there / f"{number}").mkdir(), 0, 2)  # type: ignore[misc]
        assert (there / "file").read_bytes() == b"19"
    assert (here / "file").read_bytes() == b"19"
    with _frozen(client):
        file_system.umount(there)
        begun_s = time.monotonic()
        file_system.gkfs("stop", "-H", file_system.hostfile)
        assert time.monotonic() - begun_s < STOP_TIMEOUT_S + _BUSY_MACHINE_S
        file_system.gkfs("umount", "--force", here)
        file_system._running.clear()
        file_system.mounts.clear()
        os.kill(client, 0) if is_alive(client) else None
