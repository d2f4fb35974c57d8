"""Options of a mount that change what it costs: extended attributes, placement, inodes the kernel may keep."""

import errno
import multiprocessing
import os
import random
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from gkfs.awake import IDLE_DRIVER, LATENCY_DEVICE
from gkfs.limits import CHUNK_SIZE_BYTES, INODES_CHECK_S
from tests.mount.calls import errno_of, noise, opened
from tests.mount.conftest import Cluster
from tests.mount.file_system import FileSystem, wait_until


def test_without_extended_attributes_all_else_works(cluster: Cluster) -> None:
    file_system = cluster(1)
    with_them = file_system.mounts[0]
    without = file_system.mount("--no-xattrs")
    (with_them / "file").write_bytes(b"data")
    os.setxattr(with_them / "file", "user.name", b"value")
    path = without / "file"
    assert errno_of(lambda: os.getxattr(path, "user.name")) == errno.EOPNOTSUPP
    assert errno_of(lambda: os.setxattr(path, "user.name", b"other")) == errno.EOPNOTSUPP
    assert errno_of(lambda: os.removexattr(path, "user.name")) == errno.EOPNOTSUPP
    path.write_bytes(b"more data")
    assert os.getxattr(with_them / "file", "user.name") == b"value"
    assert (with_them / "file").read_bytes() == b"more data"


def chunks(file_system: FileSystem) -> list[int]:
    """How many chunk files each daemon has."""
    folders = [file_system.rootdir / f"daemon-{index}" / "chunks" for index in range(file_system.daemons)]
    return [len(list(folder.glob("*/*"))) for folder in folders]


def test_local_placement_keeps_a_file_on_one_daemon_of_this_node(cluster: Cluster) -> None:
    file_system = cluster(4)
    mountdir = file_system.mount("--placement", "local")
    (mountdir / "small").write_bytes(b"x")
    assert chunks(file_system) == [0, 0, 0, 0]
    data = noise(12 * CHUNK_SIZE_BYTES)
    (mountdir / "file").write_bytes(data)
    assert sorted(chunks(file_system)) == [0, 0, 0, 12]
    assert (file_system.mounts[0] / "file").read_bytes() == data
    os.unlink(mountdir / "file")
    wait_until(lambda: sum(chunks(file_system)) == 0, "its chunks are gone")


def test_a_directory_may_ask_for_local_placement(cluster: Cluster) -> None:
    file_system = cluster(4)
    folder = file_system.mounts[0] / "checkpoints"
    folder.mkdir()
    os.setxattr(folder, "user.gkfs.placement", b"local")
    (folder / "file").write_bytes(noise(12 * CHUNK_SIZE_BYTES))
    assert sorted(chunks(file_system)) == [0, 0, 0, 12]
    (file_system.mounts[0] / "beside").write_bytes(noise(12 * CHUNK_SIZE_BYTES))
    assert min(chunks(file_system)) > 0


def test_the_kernel_gives_back_files_beyond_the_bound(cluster: Cluster) -> None:
    file_system = cluster(1, 0)
    mountdir = file_system.mount("--max-inodes", "100")
    (mountdir / "kept open").write_bytes(noise(20_000))
    with opened(mountdir / "kept open", os.O_RDONLY) as file:
        for number in range(3000):
            (mountdir / f"file-{number}").touch()

        def remembered() -> int:
            # The client writes it to its log upon SIGUSR1.
            os.kill(file_system.client_pid(mountdir), signal.SIGUSR1)
            found = re.findall(r"(\d+) inodes", file_system.log_of(mountdir).read_text())
            return int(found[-1]) if found else 1 << 30

        wait_until(lambda: remembered() <= 110, "the kernel has forgotten nearly all", every_s=0.3)
        assert os.pread(file, 20_000, 0) == noise(20_000)
    sent = re.findall(r"(\d+) requests sent", file_system.log_of(mountdir).read_text())
    assert int(sent[-1]) > 3000, "at least a creation of each"
    assert sorted(os.listdir(mountdir))[:2] == ["file-0", "file-1"]
    assert all((mountdir / f"file-{number}").stat().st_size == 0 for number in range(0, 3000, 100))


def test_a_mount_ends_in_the_midst_of_giving_back_files(cluster: Cluster) -> None:
    file_system = cluster(1, 0)
    mountdir = file_system.mount("--max-inodes", "100")
    daemon_pid = file_system.daemon_pids()[0]
    for number in range(1000):
        (mountdir / f"file-{number}").touch()
    os.kill(daemon_pid, signal.SIGSTOP)
    creation = multiprocessing.Process(target=_try_to_create, args=(mountdir / "one more",))
    creation.start()
    time.sleep(2 * INODES_CHECK_S)  # names are given to a kernel that waits for the creation in their directory
    os.kill(file_system.client_pid(mountdir), signal.SIGTERM)
    wait_until(lambda: not os.path.ismount(mountdir), "it has unmounted itself")
    os.kill(daemon_pid, signal.SIGCONT)
    creation.join()
    file_system.mounts.remove(mountdir)
    assert "ERROR" not in file_system.log_of(mountdir).read_text()


def _try_to_create(path: Path) -> None:
    with suppress(OSError):
        path.touch()


def test_writes_that_are_not_waited_for_show_here_at_once_and_elsewhere_after_close(cluster: Cluster) -> None:
    file_system = cluster(2)
    mountdir = file_system.mount()
    chance = random.Random(5)
    expected = bytearray()
    with opened(mountdir / "file", os.O_RDWR | os.O_CREAT) as file:
        for step in range(1500):
            if step % 100 == 99:
                size = chance.randrange(3 * CHUNK_SIZE_BYTES)
                os.truncate(mountdir / "file", size)
                expected = expected[:size].ljust(size, b"\0")
                continue
            follows_on = chance.random() < 0.7
            offset = len(expected) if follows_on else chance.randrange(len(expected) + 5000)
            data = chance.randbytes(chance.choice((10, 500, 5000, 70_000, CHUNK_SIZE_BYTES + 7)))
            if offset + len(data) > 4 * CHUNK_SIZE_BYTES:
                continue
            assert os.pwrite(file, data, offset) == len(data)
            expected = expected.ljust(offset, b"\0")
            expected[offset : offset + len(data)] = data
            if step % 7 == 0:
                start = chance.randrange(len(expected))
                assert os.pread(file, 9000, start) == expected[start : start + 9000]
                assert os.fstat(file).st_size == len(expected)
    for folder in (mountdir, file_system.mounts[0]):
        assert (folder / "file").read_bytes() == expected


def _may_keep_processors_awake() -> bool:
    return os.access(LATENCY_DEVICE, os.W_OK) and IDLE_DRIVER.exists() and "haltpoll" in IDLE_DRIVER.read_text()


@pytest.mark.skipif(not _may_keep_processors_awake(), reason=f"no virtual machine, or {LATENCY_DEVICE} is closed")
def test_processors_are_kept_awake_while_programs_call(cluster: Cluster) -> None:
    file_system = cluster(1)
    without = file_system.mount("--no-awake")
    descriptors = []
    for mountdir in (file_system.mounts[0], without):
        folder = Path(f"/proc/{file_system.client_pid(mountdir)}/fd")
        descriptors.append([os.readlink(link) for link in folder.iterdir()].count(str(LATENCY_DEVICE)))
    assert descriptors == [1, 0]
    with opened(LATENCY_DEVICE, os.O_RDONLY) as latency:

        def none_while_calling() -> bool:
            for _ in range(1000):
                with suppress(OSError):
                    os.getxattr(file_system.mounts[0], "user.none")
            return os.pread(latency, 4, 0) == bytes(4)

        wait_until(none_while_calling, "no processor may halt")
