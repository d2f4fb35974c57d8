"""Random calls on one file leave it, byte by byte, as it should be, on the node they are made on and elsewhere.

The calls are the same in every run. For more (a hundred thousand take one to two minutes) and others:

    RANDOM_IO_OPERATIONS=100000 RANDOM_IO_SEED=5 pytest tests/mount/test_random_io.py

A failure ends in a short script that leads to it.
"""

import mmap
import os
import struct
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.mount.calls import MIB
from tests.mount.conftest import EMBEDDED, TLS, Place
from tests.mount.file_calls import exercise
from tests.mount.programs import at_once
from tests.mount.random_io import Wrong

_OPERATIONS: Final = int(os.environ.get("RANDOM_IO_OPERATIONS", "0"))
_SEED: Final = int(os.environ.get("RANDOM_IO_SEED", "1"))


def exercise_in_a_process(place: Place, seed: int, operations: int, *, moves: bool) -> None:
    """A mapping whose file is too short ends the process that uses it, which must not be ours."""
    progress = mmap.mmap(-1, 8)  # shared with the child
    work = partial(
        exercise,
        direct=place.mounted,
        moves=moves,
        begun=lambda number: struct.pack_into("q", progress, 0, number),
    )
    try:
        at_once(work, [(place.here, place.there, seed, _OPERATIONS or operations)])
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, operation {struct.unpack_from('q', progress)[0]}: {error}") from None


@pytest.mark.limit_s(36_000)
@pytest.mark.parametrize(
    ("file_system", "operations"),
    [(2, 30_000), (EMBEDDED, 5000), (TLS, 5000)],
    ids=["2-daemons", EMBEDDED, TLS],
    indirect=["file_system"],
)
def test_random_calls_on_one_mount_are_exact(operations: int, place: Place) -> None:
    exercise_in_a_process(place, _SEED, operations, moves=False)


@pytest.mark.limit_s(36_000)
@pytest.mark.parametrize("seed", [_SEED + 1, _SEED + 2])
def test_calls_that_move_between_nodes_are_exact(seed: int, anywhere: Place) -> None:
    """On the local disk, too, which shows that the expectation is Linux's own."""
    exercise_in_a_process(anywhere, seed, 6000, moves=True)


def test_a_lost_byte_is_shown_as_a_short_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes across the border of a chunk lose a byte: found, and what has nothing to do with it left out."""
    pwrite = os.pwrite

    def broken(file: int, data: bytes, offset: int) -> int:
        beyond = MIB - offset
        if 0 < beyond < len(data):
            data = data[:beyond] + bytes([data[beyond] ^ 1]) + data[beyond + 1 :]
        return pwrite(file, data, offset)

    monkeypatch.setattr(os, "pwrite", broken)
    with pytest.raises(Wrong) as caught:
        exercise(tmp_path, tmp_path, 1, 20_000, direct=False)
    report = str(caught.value)
    assert report.startswith("seed 1, operation ")
    assert f"differs first at {MIB}, in 1 bytes" in report
    script = report.partition("file = File(here, there, filled=0)\n")[2].splitlines()
    assert len(script) == 1, report
    assert script[0].startswith("file.pwrite(")
