"""Two nodes write the same bytes in turn, and neither syncs in between: the later write stays."""

import os
import random
import time
from pathlib import Path

import pytest

from gkfs.limits import SIZE_FLUSH_DELAY_S, WRITE_LEASE_S
from tests.mount.calls import MIB, noise, opened
from tests.mount.conftest import Place
from tests.mount.test_rename import EXCHANGE, renameat2

_RANGES = [(0, 100), (5000, 3000), (200_000, 70_000), (MIB - 7, 20), (2 * MIB, MIB)]


def write_in_turn(place: Place, flags: tuple[int, int], turns: int, seed: int) -> None:
    source = random.Random(seed)
    expected = bytearray(noise(4 * MIB, seed))
    (place.here / "file").write_bytes(expected)
    with (
        opened(place.here / "file", os.O_RDWR | flags[0]) as here,
        opened(place.there / "file", os.O_RDWR | flags[1]) as there,
    ):
        for _ in range(turns):
            start, length = source.choice(_RANGES)
            writer = source.choice((here, there))
            for _ in range(source.choice((1, 1, 5))):
                data = source.randbytes(length)
                assert os.pwrite(writer, data, start) == length
                expected[start : start + length] = data
    for view in (place.here, place.there):
        assert (view / "file").read_bytes() == expected


@pytest.mark.parametrize("flags", [(0, 0), (0, os.O_SYNC), (os.O_DSYNC, 0)], ids=["plain", "synced", "first"])
def test_the_later_of_two_writes_stays(flags: tuple[int, int], place: Place) -> None:
    write_in_turn(place, flags, 60 if any(flags) else 200, 5)  # the disk takes its time for each of them


def test_it_stays_when_the_first_one_had_begun_to_write_behind(place: Place) -> None:
    """The first writes until it is not waited for; the second waits for what is on its way."""
    for number in range(3):
        name = f"file-{number}"
        data = noise(32 * MIB, number)
        with (
            opened(place.here / name, os.O_RDWR | os.O_CREAT) as here,
            opened(place.there / name, os.O_RDWR) as there,
        ):
            assert os.write(here, data) == len(data)
            start_s = time.monotonic()
            assert os.pwrite(there, b"later", 31 * MIB) == 5
            assert os.pwrite(there, b"later", 17) == 5
            assert time.monotonic() - start_s < SIZE_FLUSH_DELAY_S + 2 * WRITE_LEASE_S
            assert os.pwrite(here, b"last", 31 * MIB + 1) == 4
        expected = bytearray(data)
        expected[17:22] = expected[31 * MIB : 31 * MIB + 5] = b"later"
        expected[31 * MIB + 1 : 31 * MIB + 5] = b"last"
        for view in (place.here, place.there):
            assert (view / name).read_bytes() == expected


@pytest.mark.parametrize("goes_on", [False, True])
def test_an_append_goes_behind_what_another_node_has_just_written(goes_on: bool, place: Place) -> None:
    data = noise(MIB, 7)
    with opened(place.here / "file", os.O_RDWR | os.O_CREAT) as here:
        for start in range(0, len(data), 128 << 10):
            assert os.pwrite(here, data[start : start + (128 << 10)], start) == 128 << 10
        with opened(place.there / "file", os.O_WRONLY | os.O_APPEND) as there:
            assert os.write(there, b"appended") == 8
        if goes_on:
            assert os.pwrite(here, b"begin", 0) == 5
    expected = b"begin" + data[5:] if goes_on else data
    for view in (place.here, place.there):
        assert (view / "file").read_bytes() == expected + b"appended"


def test_who_has_closed_is_not_waited_for(place: Place) -> None:
    """Programs hand files on: one writes and closes, another one goes on with them."""
    waited_s = 0.0
    for number in range(10):
        (place.here / f"{number}").write_bytes(noise(3 * MIB, number))
        with opened(place.there / f"{number}", os.O_RDWR) as there:
            start_s = time.monotonic()
            assert os.pwrite(there, b"later", 2 * MIB) == 5
            waited_s += time.monotonic() - start_s
        assert (place.here / f"{number}").read_bytes()[2 * MIB : 2 * MIB + 5] == b"later"
    assert waited_s < WRITE_LEASE_S


def _move(where: Path, how: str, name: str) -> Path:
    """Give the file *name* in ``d`` another one; where it is now."""
    if how == "directory":
        (where / "d").rename(where / "moved")
        return where / "moved" / name
    target = where / "d" / f"new-{name}"
    if how == "link":
        os.link(where / "d" / name, target)
    elif how == "exchange":
        target.touch()
        renameat2(target, where / "d" / name, EXCHANGE)
    else:
        (where / "d" / name).rename(target)
    return target


@pytest.mark.parametrize("how", ["rename", "exchange", "link", "directory"])
@pytest.mark.parametrize("elsewhere", [True, False], ids=["elsewhere", "here"])
def test_what_was_not_waited_for_arrives_before_the_file_is_moved(how: str, elsewhere: bool, place: Place) -> None:
    """Its new daemon knows of no lease, and lets the next writer go on at once."""
    (place.here / "d").mkdir()
    names = [f"file-{number}" for number in range(1 if how == "directory" else 3)]
    for name in names:
        with opened(place.here / "d" / name, os.O_RDWR | os.O_CREAT) as here:
            assert os.write(here, noise(3 * MIB)) == 3 * MIB
            assert os.pwrite(here, b"sooner", MIB) == 6
            start_s = time.monotonic()
            view = place.there if elsewhere else place.here
            moved = _move(view, how, name).relative_to(view)
            assert time.monotonic() - start_s < SIZE_FLUSH_DELAY_S + 2 * WRITE_LEASE_S
            with opened(place.there / moved, os.O_RDWR) as there:
                assert os.pwrite(there, b"later!", MIB) == 6
        for view in (place.here, place.there):
            assert (view / moved).read_bytes()[MIB : MIB + 6] == b"later!"
