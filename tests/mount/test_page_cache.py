"""What the kernel keeps of the data of small files never gets old there, whoever has them open."""

import os
import threading
from pathlib import Path

from gkfs.limits import INLINE_DATA_MAX_BYTES
from tests.mount.calls import noise, opened
from tests.mount.conftest import Place

LIMIT = INLINE_DATA_MAX_BYTES


def test_files_that_change_between_opens(anywhere: Place) -> None:
    for number, size in enumerate([LIMIT, 100, LIMIT, LIMIT, 5000, 1, LIMIT + 1, 4096, LIMIT]):
        (anywhere.here / "file").write_bytes(noise(size, number))
        for folder in (anywhere.there, anywhere.here, anywhere.there):
            assert (folder / "file").read_bytes() == noise(size, number)


def test_files_that_change_while_they_are_open(anywhere: Place) -> None:
    (anywhere.here / "file").write_bytes(noise(LIMIT))
    with opened(anywhere.there / "file", os.O_RDONLY) as before:
        for number, size in enumerate([LIMIT, 100, 5000, LIMIT, 7]):
            (anywhere.here / "file").write_bytes(noise(size, number))
            with opened(anywhere.there / "file", os.O_RDONLY) as after:
                assert os.pread(after, LIMIT, 0) == noise(size, number)
                assert os.pread(before, LIMIT, 0) == noise(size, number)


def test_who_truncates_and_extends_finds_zeros(anywhere: Place) -> None:
    (anywhere.here / "file").write_bytes(noise(LIMIT))
    assert (anywhere.there / "file").read_bytes() == noise(LIMIT)
    os.truncate(anywhere.here / "file", 100)
    os.truncate(anywhere.here / "file", LIMIT)
    assert (anywhere.there / "file").read_bytes() == noise(LIMIT)[:100].ljust(LIMIT, b"\0")


def test_many_open_and_read_what_another_node_writes(anywhere: Place) -> None:
    path, data, done = anywhere.there / "file", noise(4096), threading.Event()
    (anywhere.here / "file").write_bytes(b"a" * 4096)
    seen: list[bytes] = []

    def read(path: Path) -> None:
        while not done.is_set():
            with open(path, "rb") as file:
                seen.append(bytes(set(file.read())))

    readers = [threading.Thread(target=read, args=(path,)) for _ in range(4)]
    for reader in readers:
        reader.start()
    with opened(anywhere.here / "file", os.O_WRONLY) as file:
        for number in range(200):
            os.pwrite(file, bytes([ord("a") + number % 26]) * 4096, 0)
            os.fsync(file)
    done.set()
    for reader in readers:
        reader.join(60)
        assert not reader.is_alive()
    assert len(seen) >= len(readers)
    assert all(len(letters) == 1 for letters in seen), "a page is written as a whole"
    (anywhere.here / "file").write_bytes(data)
    assert path.read_bytes() == data
