"""A mount with a daemon in its process: how it ends, and what is there afterwards.

That it does what any mount does is tested where the file system is EMBEDDED, or all with GKFS_TEST_EMBEDDED=1.
"""

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gkfs.distributor import Distributor
from tests.mount.calls import MIB, errno_of, noise
from tests.mount.conftest import close_file_system, open_file_system
from tests.mount.file_system import FileSystem, is_alive, wait_until
from tests.mount.programs import run

Embedded = Callable[..., FileSystem]


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Embedded]:
    """Start a file system whose daemon 0 is in the first mount: `embedded(daemons, mounts=1)`."""
    opened: list[FileSystem] = []

    def start(daemons: int, mounts: int = 1) -> FileSystem:
        opened.append(open_file_system(tmp_path / f"gkfs-{len(opened)}", daemons, mounts, embedded=True))
        return opened[-1]

    yield start
    problems = [problem for file_system in opened for problem in close_file_system(file_system)]
    if problems:
        pytest.fail("\n".join(problems))


def test_one_process_is_mount_and_daemon(embedded: Embedded) -> None:
    file_system = embedded(1)
    client = file_system.client_pid(file_system.mounts[0])
    assert file_system.daemon_pids() == [client]
    assert list(file_system.processes()) == [client]


def test_unmounting_ends_the_daemon_and_the_next_mount_has_everything(embedded: Embedded) -> None:
    file_system = embedded(1)
    (mountdir,) = file_system.mounts
    (mountdir / "folder").mkdir()
    (mountdir / "folder" / "file").write_bytes(noise(3 * MIB + 5))
    file_system.umount(mountdir)
    assert file_system.processes() == {}
    mountdir = file_system.mount()
    assert (mountdir / "folder" / "file").read_bytes() == noise(3 * MIB + 5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_both_and_loses_nothing(number: signal.Signals, embedded: Embedded) -> None:
    file_system = embedded(1)
    (mountdir,) = file_system.mounts
    file = os.open(mountdir / "file", os.O_RDWR | os.O_CREAT)
    os.write(file, noise(MIB))
    ends(file_system, lambda client: os.kill(client, number))
    assert errno_of(lambda: os.write(file, b"more")) == errno.ENOTCONN
    assert errno_of(lambda: os.close(file)) == errno.ENOTCONN
    assert (file_system.mount() / "file").read_bytes() == noise(MIB)


def test_gkfs_stop_unmounts_and_loses_nothing(embedded: Embedded) -> None:
    file_system = embedded(2)
    (mountdir,) = file_system.mounts
    for number in range(20):  # some records on either daemon
        (mountdir / f"file-{number}").write_text(f"{number}")
    client = file_system.client_pid(mountdir)
    file_system.stop()
    assert not is_alive(client)
    assert not os.path.ismount(mountdir)
    file_system.start()
    mountdir = file_system.mount()
    assert sorted(int((mountdir / f"file-{number}").read_text()) for number in range(20)) == list(range(20))


def test_nothing_acknowledged_is_lost_when_it_is_killed(embedded: Embedded) -> None:
    file_system = embedded(1)
    (mountdir,) = file_system.mounts
    for number in range(50):
        (mountdir / f"file-{number}.tmp").write_bytes(noise(20_000 + number, number))
        os.rename(mountdir / f"file-{number}.tmp", mountdir / f"file-{number}")
    ends(file_system, lambda client: os.kill(client, signal.SIGKILL))
    run("umount", "-l", mountdir)
    for record in file_system.runtime.rglob("*"):
        if record.is_file():  # of the mount that was killed; `gkfs umount` would have removed it
            record.unlink()
    mountdir = file_system.mount()
    assert len(os.listdir(mountdir)) == 50
    for number in range(50):
        assert (mountdir / f"file-{number}").read_bytes() == noise(20_000 + number, number)


def ends(file_system: FileSystem, how: Callable[[int], None]) -> None:
    """Have the one process of *file_system* end."""
    (mountdir,) = file_system.mounts
    client = file_system.client_pid(mountdir)
    file_system.embedding_ends()
    how(client)
    wait_until(lambda: not is_alive(client), f"the client (pid {client}) has ended")


def test_other_nodes_are_served_while_this_one_is_busy(embedded: Embedded) -> None:
    file_system = embedded(1, mounts=2)
    here, there = file_system.mounts
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            (here / "busy").write_bytes(b"x")

    busy = threading.Thread(target=work)
    busy.start()
    try:
        for number in range(200):
            (there / f"file-{number}").write_text(f"{number}")
            assert (here / f"file-{number}").read_text() == f"{number}"
    finally:
        ended.set()
        busy.join()


def test_large_files_go_to_both_kinds_of_daemons(embedded: Embedded) -> None:
    file_system = embedded(2, mounts=2)
    here, there = file_system.mounts
    (here / "file").write_bytes(noise(16 * MIB))
    used = [daemon["used_bytes"] for daemon in file_system.daemon_status()]
    assert sum(used) == 16 * MIB
    assert min(used) > 0
    assert (there / "file").read_bytes() == noise(16 * MIB)
    os.truncate(there / "file", 5 * MIB + 1)
    assert (here / "file").read_bytes() == noise(16 * MIB)[: 5 * MIB + 1]


def test_directories_are_renamed_between_both_kinds_of_daemons(embedded: Embedded) -> None:
    file_system = embedded(2)
    (mountdir,) = file_system.mounts
    owner = Distributor(2).path_owner
    first = next(name for name in (f"a{n}" for n in range(99)) if owner(b"/" + name.encode()) == 0)
    second = next(name for name in (f"b{n}" for n in range(99)) if owner(b"/" + name.encode()) == 1)
    (mountdir / first).mkdir()
    for number in range(20):
        (mountdir / first / f"{number}").write_text(f"{number}")
    for source, target in ((first, second), (second, first)):
        os.rename(mountdir / source, mountdir / target)
        assert not (mountdir / source).exists()
        assert sorted(int((mountdir / target / f"{n}").read_text()) for n in range(20)) == list(range(20))
    assert errno_of(lambda: os.rmdir(mountdir / first)) == errno.ENOTEMPTY
