"""One Slurm cluster of three nodes for all tests of this folder; with pytest-xdist, one per worker that runs any.

It comes up in two seconds when the first test asks for it, and goes with everything on it after the last one, or
when pytest is killed. Each test must leave the nodes idle and clean; one that does not fails, and the next ones
get a new cluster.
"""

from collections.abc import Iterator

import pytest

from tests.slurm.slurm_cluster import NotHereError, SlurmCluster, until

_NODES = 3


@pytest.fixture(scope="session")
def _running() -> Iterator[SlurmCluster]:
    try:
        cluster = SlurmCluster(_NODES)
    except NotHereError as why:
        pytest.skip(f"no Slurm cluster: {why}")
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(_running: SlurmCluster) -> Iterator[SlurmCluster]:
    """The cluster, idle, without any gkfs on it; so must it be when the test has ended."""
    yield _running
    problems = _running.trouble()
    if not until(lambda: not _running.leftovers(), 30):
        problems += _running.leftovers()
    if problems:
        _running.restart()
        pytest.fail("left behind:\n" + "\n".join(problems))
