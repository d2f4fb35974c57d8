"""Daemons and clients that may open few files or have little memory: errors, or waiting, and then they go on."""

import errno
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from gkfs import transport
from gkfs.hostfile import read
from tests.mount import conftest
from tests.mount.calls import MIB, errno_of, noise
from tests.mount.conftest import Cluster
from tests.mount.file_system import COMMAND_LIMIT_S, GKFS, FileSystem, is_alive, wait_until

_MAY_FAIL: Final = {0, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ETIMEDOUT}


@contextmanager
def _limited(pid: int, kind: int, most: int) -> Iterator[None]:
    """Let *pid* have no more than *most* of *kind*."""
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, before)


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _use(mountdir: Path, round_: int, files: int = 60) -> set[int]:
    """Make, write, read and remove files; which errnos there were. What a call has returned for is right."""
    errors = set()
    for number in range(files):
        path = mountdir / f"{round_}-{number}"
        data = noise((100, 20_000, 2 * MIB)[number % 3], number)
        failed = errno_of(lambda: path.write_bytes(data))  # noqa: B023
        errors.add(failed)
        if not failed:
            try:
                assert path.read_bytes() == data
            except OSError as error:
                errors.add(error.errno or 0)
        if number % 2:
            errors.add(errno_of(path.unlink) if not failed else 0)
    errors.add(errno_of(lambda: os.listdir(mountdir)))
    return errors - {errno.ENOENT}


def test_a_daemon_without_descriptors_gives_errors_and_goes_on(cluster: Cluster) -> None:
    file_system = cluster(2)
    file_system.expected_trouble += ["Too many open files", "EMFILE", "cannot accept connections"]
    mountdir = file_system.mounts[0]
    (mountdir / "before").write_bytes(noise(3 * MIB))
    pid = file_system.daemon_pids()[0]
    with _limited(pid, resource.RLIMIT_NOFILE, 12):  # fewer than it has open
        errors = _use(mountdir, 0)
        assert errors & {errno.EMFILE, errno.EIO}, "the limit was not met"
        assert errors <= _MAY_FAIL
    wait_until(lambda: _use(mountdir, 1) == {0}, "all goes well again", 30, 0.5)
    assert file_system.daemon_pids()[0] == pid


class _FewDescriptors(FileSystem):
    """Its daemons may have 200 files open."""

    def start(self) -> None:
        arguments = ["start", "-r", str(self.rootdir), "-H", str(self.hostfile), "-n", str(self.daemons)]
        command = ["prlimit", "--nofile=200:200", *GKFS, *arguments]
        subprocess.run(command, env=self._environment(), check=True, timeout=COMMAND_LIMIT_S)
        self._running = set(self.daemon_pids())


@pytest.fixture
def few(tmp_path: Path) -> Iterator[FileSystem]:
    """A file system of one daemon that may have few files open, mounted."""
    file_system = _FewDescriptors(tmp_path / "gkfs", 1)
    conftest.bring_up(file_system, 1)
    yield file_system
    problems = conftest.close_file_system(file_system)
    if problems:
        pytest.fail("\n".join(problems))


def test_a_daemon_with_few_descriptors_works_with_them(few: FileSystem) -> None:
    """It keeps fewer files open, and takes fewer connections, instead of failing."""
    file_system = few
    mountdir = file_system.mounts[0]
    for number in range(150):  # each has a chunk file
        (mountdir / f"{number}").write_bytes(noise(20_000, number))
    for number in range(150):
        assert (mountdir / f"{number}").read_bytes() == noise(20_000, number)
    assert _descriptors(file_system.daemon_pids()[0]) < 150
    idle = _connect_often(file_system, 180)
    try:
        (mountdir / "meanwhile").write_bytes(noise(20_000))
        assert (mountdir / "meanwhile").read_bytes() == noise(20_000)
        time.sleep(0.3)
    finally:
        for one in idle:
            one.close()
    wait_until(
        lambda: file_system.gkfs("status", "-H", file_system.hostfile, check=False).returncode == 0, "it answers"
    )


def _connect_often(file_system: FileSystem, count: int) -> list[socket.socket]:
    """Connections that say nothing."""
    host, port = transport.tcp_address(read(file_system.hostfile).daemons[0].tcp)
    opened = []
    for _ in range(count):
        one = socket.socket()
        one.settimeout(2)
        if errno_of(lambda: one.connect((host, port))):  # noqa: B023
            one.close()
            break
        opened.append(one)
    return opened


def test_a_client_without_descriptors_gives_errors_and_goes_on(cluster: Cluster) -> None:
    """A connection that breaks meanwhile cannot be made again, until there are descriptors."""
    file_system = cluster(2, mounts=0)
    file_system.expected_trouble += ["Too many open files"]
    mountdir = file_system.mount("--request-timeout", "2")
    client = file_system.client_pid(mountdir)
    assert _use(mountdir, 0) == {0}
    with _limited(client, resource.RLIMIT_NOFILE, 3):
        assert _use(mountdir, 1) == {0}  # it needs no more
        file_system.kill_daemon(1)
        file_system.restart_daemon(1)
        assert _use(mountdir, 2, 9) <= _MAY_FAIL
    wait_until(lambda: _use(mountdir, 3) == {0}, "all goes well again", 30, 0.5)
    assert file_system.client_pid(mountdir) == client


def _use_side_by_side(mountdir: Path) -> set[int]:
    """So that more is needed than before; which errnos there were."""
    with ThreadPoolExecutor(6) as threads:
        return set().union(*threads.map(partial(_use, mountdir), range(10, 16)))


def test_a_daemon_without_memory_gives_errors_and_goes_on(cluster: Cluster) -> None:
    file_system = cluster(1, mounts=0)
    file_system.expected_faults.append("^beyond: ")  # what a write that failed has done nevertheless
    file_system.expected_trouble += ["MemoryError", "Cannot allocate memory", "Traceback", "failed unexpectedly"]
    mountdir = file_system.mount("--request-timeout", "3")
    assert _use(mountdir, 0) == {0}
    pid = file_system.daemon_pids()[0]
    with _limited(pid, resource.RLIMIT_AS, MIB):  # it has much more: not one page is added
        assert _use_side_by_side(mountdir) <= _MAY_FAIL
    wait_until(lambda: _use(mountdir, 2) == {0}, "all goes well again", 30, 0.5)
    assert file_system.daemon_pids()[0] == pid


def test_a_client_without_memory_gives_errors_and_takes_nobody_with_it(cluster: Cluster) -> None:
    """It may end: then its mount gives errors until it is unmounted."""
    file_system = cluster(2, mounts=2)
    file_system.expected_faults += ["^beyond: "]
    file_system.expected_trouble += ["MemoryError", "Traceback", "failed"]
    mountdir, other = file_system.mounts
    assert _use(mountdir, 0) == {0}
    client = file_system.client_pid(mountdir)
    resource.prlimit(client, resource.RLIMIT_AS, (MIB, resource.prlimit(client, resource.RLIMIT_AS)[1]))
    ended = {errno.ENOTCONN, errno.ECONNABORTED, errno.EEXIST, errno.EINTR}
    assert _use_side_by_side(mountdir) <= _MAY_FAIL | ended
    assert _use(other, 30) == {0}
    os.kill(client, signal.SIGKILL) if is_alive(client) else None
    if os.path.ismount(mountdir) or errno_of(mountdir.stat) == errno.ENOTCONN:
        file_system.gkfs("umount", mountdir)
    file_system.mounts.remove(mountdir)
    (file_system.runtime / "gkfs" / "errors.log").unlink(missing_ok=True)  # where it says why it has ended
    assert _use(file_system.mount(), 40) == {0}
