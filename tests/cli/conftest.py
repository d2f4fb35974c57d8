"""One `workplace` per test, checked for leftovers and cleared when the test ends."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.workplace import Workplace


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Workplace]:
    """A Workplace; a test that leaves daemons running without need for them is at fault, too."""
    place = Workplace(tmp_path)
    yield place
    left = place.leftovers()
    place.clear()
    if left:
        pytest.fail("left over: " + "; ".join(left))


@pytest.fixture
def fuse() -> None:
    """For tests that mount."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no mounts: /dev/fuse cannot be opened")


@pytest.fixture
def pair(workplace: Workplace) -> Iterator[Workplace]:
    """A Workplace with two daemons, whose stores are found right by fsck in the end."""
    workplace.start_daemons(2)
    yield workplace
    workplace.ok("fsck", "-H", workplace.hosts)
    workplace.ok("stop", "-H", workplace.hosts, "--purge")
