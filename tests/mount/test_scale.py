"""Many files: they spread over the daemons, and a listing of a large directory stays within bounds.

Sizes by environment: SCALE_FILES (10,000) and SCALE_LISTED (50,000).
"""

import os
import statistics
from pathlib import Path
from typing import Any, Final

import pytest

from tests.mount.calls import MIB, noise
from tests.mount.conftest import Cluster
from tests.mount.file_system import FileSystem, resident_bytes
from tests.mount.programs import at_once

FILES: Final = int(os.environ.get("SCALE_FILES", "10000"))
LISTED: Final = int(os.environ.get("SCALE_LISTED", "50000"))
# No daemon holds more than this much of what each would hold if all held the same.
SPREAD_MAX: Final = 1.15
# A page of a listing is 1,000 names; with pages asked for ahead and what Python keeps, far less than this.
LISTING_GROWTH_MAX_BYTES: Final = 24 * MIB
_CREATORS: Final = 4


def create(folder: Path, creator: int, count: int) -> None:
    """Create every fourth of *count* files, with names of usual length."""
    inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    for number in range(creator, count, _CREATORS):
        os.mknod(f"checkpoint-{number:09}.data", 0o600, dir_fd=inside)
    os.close(inside)


def create_all(file_system: FileSystem, folder: str, count: int) -> None:
    (file_system.mounts[0] / folder).mkdir()
    views = [mountdir / folder for mountdir in file_system.mounts]
    at_once(create, [(views[creator % len(views)], creator, count) for creator in range(_CREATORS)])


def growths(daemons: list[dict[str, Any]], what: str, before: list[dict[str, Any]]) -> list[int]:
    """How much of *what* came to each daemon since *before*."""
    return [int(now[what]) - int(then[what]) for now, then in zip(daemons, before, strict=True)]


def grown(daemons: list[dict[str, Any]], what: str, before: list[dict[str, Any]]) -> int:
    """How much came to all together."""
    return sum(growths(daemons, what, before))


def spread(daemons: list[dict[str, Any]], what: str, before: list[dict[str, Any]]) -> float:
    """How much came to the daemon with the most, in terms of the mean."""
    return max(growths(daemons, what, before)) / statistics.mean(growths(daemons, what, before))


@pytest.fixture(scope="module")
def of_four(request: pytest.FixtureRequest) -> FileSystem:
    file_system: FileSystem = request.getfixturevalue("shared").get(4)
    return file_system


def test_files_spread_over_daemons(of_four: FileSystem) -> None:
    before = of_four.daemon_status()
    create_all(of_four, "spread", FILES)
    after = of_four.daemon_status()
    assert grown(after, "files", before) == FILES
    assert spread(after, "files", before) <= SPREAD_MAX
    assert len(os.listdir(of_four.mounts[0] / "spread")) == FILES


def test_names_of_one_process_each_spread_over_daemons(of_four: FileSystem) -> None:
    """As simulations name them: the same few files in a directory per rank."""
    before = of_four.daemon_status()
    top = of_four.mounts[0] / "ranks"
    top.mkdir()
    for rank in range(500):
        (top / f"rank-{rank:05}").mkdir()
        for name in ("input", "output", "restart", "log"):
            os.mknod(top / f"rank-{rank:05}" / name, 0o600)
    assert spread(of_four.daemon_status(), "files", before) <= SPREAD_MAX


def test_chunks_of_a_large_file_spread_over_daemons(of_four: FileSystem) -> None:
    before = of_four.daemon_status()
    block = noise(MIB)
    with open(of_four.mounts[0] / "large", "wb", buffering=0) as file:
        file.writelines(block for _ in range(256))
    after = of_four.daemon_status()
    assert (
        sum(daemon["used_bytes"] for daemon in after) - sum(daemon["used_bytes"] for daemon in before) >= 256 * MIB
    )
    assert spread(after, "used_bytes", before) <= 1.5  # of 256 chunks a few more or less are chance
    os.unlink(of_four.mounts[0] / "large")


def test_a_large_directory_is_listed_within_bounds(cluster: Cluster) -> None:
    """SCALE_LISTED names, each once; the client's memory does not grow with the directory."""
    file_system = cluster(4, mounts=2)
    create_all(file_system, "many", LISTED)
    mountdir = file_system.mount()  # a client that has seen nothing of it yet
    client = file_system.client_pid(mountdir)
    os.listdir(mountdir)
    before_bytes = resident_bytes(client)
    most_bytes, names = before_bytes, []
    with os.scandir(mountdir / "many") as entries:
        for entry in entries:
            names.append(entry.name)
            if len(names) % 5000 == 0:
                most_bytes = max(most_bytes, resident_bytes(client))
    assert len(names) == LISTED
    assert set(names) == {f"checkpoint-{number:09}.data" for number in range(LISTED)}
    assert most_bytes - before_bytes <= LISTING_GROWTH_MAX_BYTES
