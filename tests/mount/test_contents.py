"""Contents of files: mmap, holes, truncation, copies within the kernel.

On the local disk too, which shows that the expectation is Linux's own.
"""

import errno
import mmap
import os
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from gkfs.limits import SIZE_FLUSH_DELAY_S
from tests.mount.calls import MIB, errno_of, fails, noise, opened
from tests.mount.conftest import Place
from tests.mount.programs import at_once


@pytest.mark.parametrize("size", [1, 4096, 5000, 3 * MIB + 17])
def test_mmap_reads_what_was_written(size: int, anywhere: Place) -> None:
    data = noise(size)
    (anywhere.here / "file").write_bytes(data)
    for place in (anywhere.here, anywhere.there):
        with open(place / "file", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
            assert view[:] == data


def test_shared_mmap_writes_reach_read_and_other_nodes(anywhere: Place) -> None:
    data = bytearray(noise(2 * MIB + 100))
    (anywhere.here / "file").write_bytes(data)
    with open(anywhere.here / "file", "r+b", buffering=0) as file:
        with mmap.mmap(file.fileno(), 0) as view:
            for offset in (0, 4094, MIB - 3, 2 * MIB + 90):
                view[offset : offset + 8] = data[offset : offset + 8] = b"MAPPED!!"
            view.flush()
            assert os.pread(file.fileno(), len(data) + 1, 0) == data
            view[4096:4100] = data[4096:4100] = b"late"
        assert os.pread(file.fileno(), len(data) + 1, 0) == data
        os.fsync(file.fileno())
    assert (anywhere.there / "file").read_bytes() == data


def test_mmap_writes_into_a_hole_survive_close(anywhere: Place) -> None:
    with open(anywhere.here / "file", "w+b") as file:
        file.truncate(3 * MIB)
        with mmap.mmap(file.fileno(), 0) as view:
            view[2 * MIB + 5 : 2 * MIB + 9] = b"here"
    found = (anywhere.there / "file").read_bytes()
    assert found == bytes(2 * MIB + 5) + b"here" + bytes(MIB - 9)


def test_private_mmap_keeps_the_file_as_it_is(anywhere: Place) -> None:
    (anywhere.here / "file").write_bytes(b"original")
    with open(anywhere.here / "file", "r+b") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as view:
        view[:4] = b"mine"
    assert (anywhere.here / "file").read_bytes() == b"original"


def test_mmap_is_shared_by_processes(anywhere: Place) -> None:
    path = anywhere.here / "file"
    path.write_bytes(bytes(16384))

    def write(number: int) -> None:
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            for offset in range(number, len(view), 4):
                view[offset] = number + 1

    at_once(write, [(number,) for number in range(4)])
    assert path.read_bytes() == bytes([1, 2, 3, 4]) * 4096


# --- holes and truncation


def test_holes_read_as_zeros(anywhere: Place) -> None:
    with opened(anywhere.here / "file", os.O_RDWR | os.O_CREAT) as file:
        for offset in (5 * MIB + 7, 3 * MIB, MIB - 1):
            os.pwrite(file, b"data", offset)
        os.ftruncate(file, 7 * MIB)
    expected = bytearray(7 * MIB)
    for offset in (5 * MIB + 7, 3 * MIB, MIB - 1):
        expected[offset : offset + 4] = b"data"
    assert (anywhere.here / "file").read_bytes() == expected
    assert (anywhere.there / "file").read_bytes() == expected


@pytest.mark.parametrize("cut", [0, 1, 4096, MIB - 1, MIB, MIB + 1, 2 * MIB + 10])
def test_truncated_bytes_do_not_come_back(cut: int, anywhere: Place) -> None:
    data = noise(3 * MIB)
    (anywhere.here / "file").write_bytes(data)
    os.truncate(anywhere.here / "file", cut)
    assert (anywhere.there / "file").stat().st_size == cut
    os.truncate(anywhere.there / "file", 3 * MIB)
    expected = data[:cut] + bytes(3 * MIB - cut)
    assert (anywhere.here / "file").read_bytes() == expected
    assert (anywhere.there / "file").read_bytes() == expected


def test_open_with_truncation_forgets_the_old_contents(anywhere: Place) -> None:
    path = anywhere.here / "file"
    path.write_bytes(noise(2 * MIB))
    with opened(path, os.O_RDWR | os.O_TRUNC) as file:
        assert os.fstat(file).st_size == 0
        os.pwrite(file, b"end", MIB)
    assert path.read_bytes() == bytes(MIB) + b"end"


def test_truncation_beside_an_open_writer(anywhere: Place) -> None:
    path = anywhere.here / "file"
    with opened(path, os.O_RDWR | os.O_CREAT) as file:
        os.write(file, b"0123456789")
        os.truncate(path, 4)
        assert os.fstat(file).st_size == 4
        os.write(file, b"ab")
        assert os.pread(file, 100, 0) == b"0123" + bytes(6) + b"ab"
    assert path.stat().st_size == 12


def test_a_truncation_is_not_undone_by_what_was_written_before(anywhere: Place) -> None:
    """A mount tells others the sizes of written files once a second: that must not be in a truncation's way."""
    end_s = time.monotonic() + 2.5 * SIZE_FLUSH_DELAY_S
    with ExitStack() as stack:
        paths = [anywhere.here / f"{number}" for number in range(50)]
        files = [stack.enter_context(opened(path, os.O_RDWR | os.O_CREAT)) for path in paths]
        while time.monotonic() < end_s:
            for file in files:
                os.pwrite(file, b"x" * 1000, 2 * MIB)
            for file in files:
                os.ftruncate(file, 10)
                assert os.fstat(file).st_size == 10


def test_a_file_of_terabytes_holds_its_last_byte(anywhere: Place) -> None:
    size = 3 << 40
    with opened(anywhere.here / "file", os.O_RDWR | os.O_CREAT) as file:
        os.pwrite(file, b"!", size - 1)
        assert os.fstat(file).st_size == size
        assert os.pread(file, 10, size - 5) == b"\0\0\0\0!"
        os.ftruncate(file, 0)
    assert (anywhere.there / "file").stat().st_size == 0


def test_seek_finds_data(anywhere: Place) -> None:
    with opened(anywhere.here / "file", os.O_RDWR | os.O_CREAT) as file:
        os.pwrite(file, b"data", 0)
        assert os.lseek(file, 0, os.SEEK_DATA) == 0
        assert os.lseek(file, 0, os.SEEK_HOLE) == 4
        assert os.lseek(file, -1, os.SEEK_END) == 3
        with fails(errno.ENXIO):
            os.lseek(file, 4, os.SEEK_DATA)


# --- copies within the kernel


@pytest.mark.parametrize("across", [False, True], ids=["within", "from-the-disk"])
def test_copy_file_range_copies(across: bool, anywhere: Place, tmp_path: Path) -> None:
    data = noise(3 * MIB + 5)
    source = (tmp_path if across else anywhere.here) / "source"
    source.write_bytes(data)
    with opened(source, os.O_RDONLY) as reader, opened(anywhere.here / "copy", os.O_RDWR | os.O_CREAT) as writer:
        if refused := errno_of(lambda: os.copy_file_range(reader, writer, 1)):
            # Programs know these answers and copy by read and write.
            assert refused in (errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS)
            assert os.fstat(writer).st_size == 0
            return
        while os.copy_file_range(reader, writer, 64 * MIB):
            pass
    assert (anywhere.there / "copy").read_bytes() == data


def test_sendfile_copies_to_files_and_sockets(anywhere: Place) -> None:
    data = noise(2 * MIB + 5)
    (anywhere.here / "source").write_bytes(data)
    with opened(anywhere.here / "source", os.O_RDONLY) as reader:
        with opened(anywhere.here / "copy", os.O_RDWR | os.O_CREAT) as writer:
            offset = 0
            while sent := os.sendfile(writer, reader, offset, 64 * MIB):
                offset += sent
        ours, theirs = socket.socketpair()
        with ours, theirs:
            assert os.sendfile(ours.fileno(), reader, MIB - 100, 200) == 200
            assert theirs.recv(1000) == data[MIB - 100 : MIB + 100]
    assert (anywhere.there / "copy").read_bytes() == data
