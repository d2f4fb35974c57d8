"""Files that one node reads while another changes them: nothing old is seen, and little is asked."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gkfs.limits import FILE_CALM_S, LEASE_S
from tests.mount.calls import MIB, noise, opened
from tests.mount.conftest import Place
from tests.mount.file_system import FileSystem
from tests.mount.test_small_files import executed


def test_who_reads_on_asks_for_data_only(file_system: FileSystem, place: Place) -> None:
    data = noise(MIB)
    (place.there / "file").write_bytes(data)
    best = 1000
    for _ in range(5):  # on a busy machine a lease ends more often
        with opened(place.here / "file", os.O_RDONLY) as file:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
            before = executed(file_system)
            for number in range(100):
                offset = number * 37 % 256 * 4096
                assert os.pread(file, 4096, offset) == data[offset : offset + 4096]
            best = min(best, executed(file_system) - before)
        os.utime(place.here / "file")  # so that the next open reads it anew
    assert best < 150


def _append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def _overwrite(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"changed")


_CHANGES: list[Callable[[Path], object]] = [
    _append,
    _overwrite,
    lambda path: os.truncate(path, 100),
    lambda path: os.truncate(path, 0),
    lambda path: path.write_bytes(b"all new"),
    lambda path: path.chmod(0o600),
    lambda path: os.utime(path, ns=(1, 2)),
    lambda path: os.setxattr(path, "user.name", b"value"),
    lambda path: os.link(path, path.with_name("second")),
    lambda path: path.unlink(),
    lambda path: os.rename(path, path.with_name("other")),
    lambda path: path.with_name("new").rename(path),
]


@pytest.mark.parametrize("size", [500, 2 * MIB])
@pytest.mark.parametrize("change", _CHANGES)
def test_a_change_elsewhere_shows_at_once_to_who_reads(
    change: Callable[[Path], object], size: int, place: Place
) -> None:
    data = noise(size)
    (place.there / "file").write_bytes(data)
    (place.there / "new").write_bytes(b"put in its place")
    with opened(place.here / "file", os.O_RDONLY) as file, opened(place.there / "file", os.O_RDONLY) as same:
        for offset in (0, 4096, 8192):
            assert os.pread(file, 100, offset) == data[offset : offset + 100]
        start_s = time.monotonic()
        change(place.there / "file")
        assert time.monotonic() - start_s < 20 * LEASE_S
        mine, theirs = os.fstat(file), os.fstat(same)
        for field in ("st_mode", "st_nlink", "st_size", "st_mtime_ns", "st_ctime_ns"):
            assert getattr(mine, field) == getattr(theirs, field), field
        assert os.pread(file, 3 * MIB, 0) == os.pread(same, 3 * MIB, 0)


def test_a_file_read_here_and_written_there_holds_the_writer_up_once(place: Place) -> None:
    path = place.there / "file"
    path.write_bytes(noise(MIB))
    stop = threading.Event()

    def read_on() -> None:
        with opened(place.here / "file", os.O_RDONLY) as file:
            while not stop.is_set():
                os.pread(file, 4096, 0)
                os.pread(file, 4096, 8192)

    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        time.sleep(LEASE_S)
        rounds = 40
        start_s = time.monotonic()
        with open(path, "ab", buffering=0) as file:
            file.writelines(b"x" * 100 for _ in range(rounds))
        # Each of them after the end of a lease would be 8 s.
        assert time.monotonic() - start_s < min(rounds * LEASE_S / 2, FILE_CALM_S)
    finally:
        stop.set()
        reader.join()
    assert (place.here / "file").stat().st_size == MIB + rounds * 100


def test_a_handle_that_is_open_ends_where_another_node_has_cut_the_file(place: Place) -> None:
    (place.there / "file").write_bytes(noise(3 * MIB))
    with opened(place.here / "file", os.O_RDWR | os.O_APPEND) as file:  # past the kernel's page cache
        assert os.pread(file, 10, 2 * MIB) == noise(3 * MIB)[2 * MIB : 2 * MIB + 10]
        os.truncate(place.there / "file", MIB + 5)
        assert os.pread(file, 4096, 2 * MIB) == b""
        assert os.pread(file, 4096, MIB) == noise(3 * MIB)[MIB : MIB + 5]
        os.truncate(place.there / "file", 0)
        assert os.pread(file, 4096, 0) == b""
