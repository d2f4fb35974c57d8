"""Modes, owners, times and special files.

On the local disk too, which shows that the expectation is Linux's own.
"""

import errno
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.calls import MIB, fails, noise, opened
from tests.mount.conftest import Place


@pytest.mark.parametrize("time_ns", [0, 1, 999_999_999, 1_234_567_890_123_456_789, 4_102_444_800_000_000_001])
def test_times_are_kept_to_the_nanosecond(time_ns: int, anywhere: Place) -> None:
    (anywhere.here / "file").touch()
    (anywhere.here / "folder").mkdir()
    (anywhere.here / "link").symlink_to("file")
    for name in ("file", "folder", "link"):
        os.utime(anywhere.here / name, ns=(time_ns // 2, time_ns), follow_symlinks=False)
        found = os.lstat(anywhere.there / name)
        assert (found.st_atime_ns, found.st_mtime_ns) == (time_ns // 2, time_ns)


def test_changes_move_the_times(anywhere: Place) -> None:
    path, folder = anywhere.here / "file", anywhere.here
    path.write_bytes(b"x")
    past = 10**18

    def moved(change: Callable[[], object], of: Path) -> tuple[bool, bool]:
        os.utime(of, ns=(past, past))
        before_ns = of.stat().st_ctime_ns
        time.sleep(0.012)  # the kernel's clock for times ticks every few milliseconds
        change()
        after = of.stat()
        return after.st_mtime_ns != past, after.st_ctime_ns > before_ns

    assert moved(lambda: path.write_bytes(b"more"), path) == (True, True)
    assert moved(lambda: path.chmod(0o600), path) == (False, True)
    assert moved(lambda: os.truncate(path, 1), path) == (True, True)
    assert moved(path.read_bytes, path) == (False, False)
    assert moved((folder / "new").touch, folder) == (True, True)
    assert moved(lambda: os.rename(folder / "new", folder / "newer"), folder) == (True, True)
    assert moved((folder / "newer").unlink, folder) == (True, True)
    assert moved((folder / "sub").mkdir, folder) == (True, True)
    assert moved((folder / "sub").rmdir, folder) == (True, True)
    assert moved(lambda: path.write_bytes(b"in place"), folder) == (False, False)


def test_modes_obey_the_umask_and_set_group_id(anywhere: Place) -> None:
    before = os.umask(0o027)
    try:
        (anywhere.here / "folder").mkdir(0o777)
        os.close(os.open(anywhere.here / "file", os.O_CREAT, 0o666))
        os.mkfifo(anywhere.here / "fifo", 0o666)
    finally:
        os.umask(before)
    modes = {
        name: oct(stat.S_IMODE(os.stat(anywhere.there / name).st_mode)) for name in ("folder", "file", "fifo")
    }
    assert modes == {"folder": "0o750", "file": "0o640", "fifo": "0o640"}
    os.chown(anywhere.here / "folder", 11, 22)
    os.chmod(anywhere.here / "folder", 0o2777)
    (anywhere.here / "folder" / "inner").mkdir(0o755)
    (anywhere.here / "folder" / "file").touch()
    inner, file = os.stat(anywhere.there / "folder" / "inner"), os.stat(anywhere.there / "folder" / "file")
    assert (inner.st_gid, file.st_gid) == (22, 22)
    assert inner.st_mode & stat.S_ISGID


def test_chown_takes_set_id_bits_away(anywhere: Place) -> None:
    path = anywhere.here / "file"
    path.touch()
    path.chmod(0o6755)
    os.chown(path, 5, 6)
    found = (anywhere.there / "file").stat()
    assert (found.st_uid, found.st_gid, oct(stat.S_IMODE(found.st_mode))) == (5, 6, "0o755")


def test_a_fifo_and_a_device_work(anywhere: Place) -> None:
    os.mkfifo(anywhere.here / "fifo")
    os.mknod(anywhere.here / "zero", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append((anywhere.here / "fifo").read_bytes()))
    reader.start()
    (anywhere.here / "fifo").write_bytes(b"through the fifo")
    reader.join()
    assert received == [b"through the fifo"]
    assert os.stat(anywhere.there / "zero").st_rdev == os.makedev(1, 5)


def test_a_socket_connects(anywhere: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(anywhere.here)  # a socket's path has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("socket")
        server.listen()
        client.connect("socket")
        assert stat.S_ISSOCK(os.stat(anywhere.there / "socket").st_mode)


def test_holes_take_no_blocks(place: Place) -> None:
    """Not on the local disk, which allocates when it likes to."""
    path = place.here / "sparse"
    with opened(path, os.O_RDWR | os.O_CREAT) as file:
        os.ftruncate(file, 10 * MIB)
        assert os.fstat(file).st_blocks == 0
        for offset in (0, 10 * MIB):
            os.pwrite(file, noise(4096), offset)
        os.fsync(file)
    for view in (place.here, place.there):
        found = (view / "sparse").stat()
        assert (found.st_size, found.st_blocks) == (10 * MIB + 4096, 16)


def test_a_dense_file_takes_its_size_in_blocks(place: Place) -> None:
    (place.here / "dense").write_bytes(noise(3 * MIB + 5))
    found = (place.there / "dense").stat()
    assert found.st_size <= found.st_blocks * 512 <= found.st_size + MIB


def test_a_dense_file_is_data_up_to_its_end(anywhere: Place) -> None:
    (anywhere.here / "dense").write_bytes(noise(2 * MIB))
    with opened(anywhere.there / "dense", os.O_RDONLY) as file:
        for offset in (0, 4096, 2 * MIB - 1):
            assert os.lseek(file, offset, os.SEEK_DATA) == offset
            assert os.lseek(file, offset, os.SEEK_HOLE) == 2 * MIB
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            for offset in (2 * MIB, 3 * MIB):
                with fails(errno.ENXIO):
                    os.lseek(file, offset, whence)


def test_a_mount_shows_holes_as_data(place: Place) -> None:
    """What copying programs then read is zeros."""
    with opened(place.here / "sparse", os.O_RDWR | os.O_CREAT) as file:
        os.ftruncate(file, 10 * MIB)
        assert os.lseek(file, 5 * MIB, os.SEEK_DATA) == 5 * MIB
        assert os.lseek(file, 5 * MIB, os.SEEK_HOLE) == 10 * MIB
        with fails(errno.ENXIO):
            os.lseek(file, 10 * MIB, os.SEEK_DATA)
