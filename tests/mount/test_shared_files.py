"""Two nodes write one file at the same time: every byte of both is there afterwards, on every node."""

import itertools
import mmap
import os
import random
import threading
from pathlib import Path
from typing import Final

import pytest

from tests.mount.calls import MIB, noise, opened
from tests.mount.conftest import Place
from tests.mount.file_system import FileSystem
from tests.mount.programs import at_once
from tests.mount.random_io import difference

_SIZE: Final = 4 * MIB
_PAGE: Final = mmap.PAGESIZE
_WAYS: Final = {"buffered": 0, "direct": os.O_DIRECT}


def ranges(seed: int) -> list[tuple[int, int]]:
    """The file cut at random, near borders of pages and chunks, too; every other range is the same writer's."""
    source = random.Random(seed)
    cuts = {0, _SIZE, *(source.randrange(_SIZE) for _ in range(700))}
    cuts |= {source.randrange(_SIZE // _PAGE) * _PAGE + source.randint(0, 3) for _ in range(200)}
    cuts |= {chunk * MIB + around for chunk in range(1, _SIZE // MIB) for around in (-1, 1, 3)}
    borders = sorted(cuts)
    return list(itertools.pairwise(borders))


def write_ranges(path: Path, flags: int, mine: list[tuple[int, int]], content: bytes, seed: int) -> None:
    """Write these ranges in a random order, in pieces; sometimes read what surrounds them."""
    source = random.Random(seed)
    source.shuffle(mine)
    with opened(path, os.O_RDWR | flags) as file:
        for start, end in mine:
            while start < end:
                length = min(end - start, source.choice([1, 100, _PAGE, 3000, 60_000]))
                assert os.pwrite(file, content[start : start + length], start) == length
                start += length
            if source.random() < 0.3:  # cached pages with the other's bytes as they were
                os.pread(file, 10_000, max(0, end - 5000))


def store_whole_pages(path: Path, mine: list[tuple[int, int]], content: bytes, seed: int) -> None:
    """Store whole pages through a mapping, and write the rest: a mapping brings pages back whole."""
    source = random.Random(seed)
    source.shuffle(mine)
    with opened(path, os.O_RDWR) as file, mmap.mmap(file, _SIZE) as view:
        for start, end in mine:
            first, last = -(-start // _PAGE) * _PAGE, end // _PAGE * _PAGE
            if first < last:
                view[first:last] = content[first:last]
                pieces = [(start, first), (last, end)]
            else:
                pieces = [(start, end)]
            for one, other in pieces:
                assert os.pwrite(file, content[one:other], one) == other - one
            if source.random() < 0.1:
                view.flush()
        view.flush()


def assert_content(file_system: FileSystem, place: Place, expected: bytes) -> None:
    """On both nodes, past their caches, and on one that has never seen the file."""
    third = file_system.mount()
    try:
        for view in (place.here, place.there, third / place.here.name):
            for flags in (os.O_RDONLY, os.O_RDONLY | os.O_DIRECT):
                with opened(view / "file", flags) as file:
                    found = os.pread(file, _SIZE + 1, 0)
                assert found == expected, f"{view}: {difference(0, expected, found)}"
    finally:
        file_system.umount(third)


@pytest.mark.parametrize(
    "ways", [("buffered", "buffered"), ("buffered", "direct"), ("direct", "direct")], ids="-".join
)
def test_random_ranges_of_two_nodes_are_all_there(
    ways: tuple[str, str], file_system: FileSystem, place: Place
) -> None:
    (place.here / "file").touch()
    for seed in range(3):
        content = noise(_SIZE, seed)
        cut = ranges(seed)
        at_once(
            write_ranges,
            [
                (view / "file", _WAYS[way], cut[number::2], content, seed)
                for number, (view, way) in enumerate(zip((place.here, place.there), ways, strict=True))
            ],
        )
        for view in (place.here, place.there):
            found = (view / "file").read_bytes()
            assert found == content, f"seed {seed}, {view}: {difference(0, content, found)}"
    assert_content(file_system, place, content)


def test_whole_pages_mapped_on_two_nodes_are_all_there(file_system: FileSystem, place: Place) -> None:
    """Only pages that belong to one node are mapped; bytes beside them are written by the other meanwhile."""
    content = noise(_SIZE)
    (place.here / "file").write_bytes(bytes(_SIZE))
    cut = ranges(5)
    at_once(
        store_whole_pages,
        [
            (view / "file", cut[number::2], content, number)
            for number, view in enumerate((place.here, place.there))
        ],
    )
    assert_content(file_system, place, content)


def test_who_reads_during_an_append_sees_it_after_close(place: Place) -> None:
    """The size of an append shows before its data: what was read then must not be kept."""
    data = noise(900_000)
    for _ in range(60):
        (place.here / "file").write_bytes(b"-")
        done = threading.Event()

        def read(done: threading.Event = done) -> None:
            while not done.is_set():
                with opened(place.there / "file", os.O_RDONLY) as file:
                    os.pread(file, 4096, 500_000)

        reader = threading.Thread(target=read)
        reader.start()
        with opened(place.here / "file", os.O_WRONLY | os.O_APPEND) as file:
            assert os.write(file, data) == len(data)
        done.set()
        reader.join()
        assert (place.there / "file").read_bytes() == b"-" + data
