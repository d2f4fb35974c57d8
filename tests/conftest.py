"""What all tests share: no settings of the user's shell in the programs under test; the order of the files."""

import os
from typing import Final

import pytest

from benchmarks import program

# These take longest, from two minutes down to a quarter of one. They begin first: else, with files side by side,
# one worker would be busy with such a file when all others have nothing left to do.
_LONGEST: Final = (
    "slurm/test_job_ends.py",
    "mount/test_lifecycle.py",
    "mount/test_space.py",
    "mount/test_frozen.py",
    "mount/test_call_matrix.py",
    "simulation/test_simulation.py",
    "simulation/test_more_seeds.py",
    "mount/test_kill_points.py",
    "cli/test_pack_faults.py",
    "slurm/test_mpi.py",
    "cli/test_staging.py",
    "mount/test_postgresql.py",
    "slurm/test_job_starts.py",
    "mount/test_few_resources.py",
    "mount/test_random_io.py",
    "cli/test_pack.py",
    "cli/test_run.py",
    "mount/test_open_elsewhere.py",
    "mount/test_programs.py",
    "mount/test_copying.py",
    "cluster/test_crash_points.py",
    "mount/test_soak.py",
    "mount/test_scale.py",
    "slurm/test_hooks.py",
    "slurm/test_examples.py",
    "cli/test_tls.py",
    "mount/test_lying_daemons.py",
    "mount/test_sqlite.py",
    "mount/test_processes.py",
    "mount/test_random_nodes.py",
    "slurm/test_burst_buffer.py",
    "mount/test_names_elsewhere.py",
    "cli/test_daemons.py",
    "cli/test_staging_kills.py",
    "mount/test_random_operations.py",
    "mount/test_call_matrix_open.py",
    "cluster/test_fsck.py",
    "cli/test_mount.py",
    "cli/test_job_here.py",
    "mount/test_git.py",
    "cluster/test_links.py",
    "mount/test_shared_files.py",
    "slurm/test_staging.py",
    "mount/test_contents.py",
    "mount/test_tls.py",
    "daemon/test_tls.py",
)


def pytest_report_header() -> str:
    """Says what is tested."""
    return f"gkfs as a process: {program.DESCRIPTION}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first; the order within a file stays."""
    places = {config.rootpath / "tests" / name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(autouse=True, scope="session")
def plain_environment() -> None:
    """No `GKFS_*` settings, no Python path, no configuration of git, one language and time zone."""
    for name in [name for name in os.environ if name.startswith(("GKFS_", "GIT_", "PYTHON"))]:
        del os.environ[name]
    os.environ |= {"LC_ALL": "C.UTF-8", "TZ": "UTC", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
