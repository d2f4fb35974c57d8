"""What all tests share: settings of the user's shell must not reach the programs under test."""

import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def plain_environment() -> None:
    """No `GKFS_*` settings, no Python path, no configuration of git, one language and time zone."""
    for name in [name for name in os.environ if name.startswith(("GKFS_", "GIT_", "PYTHON"))]:
        del os.environ[name]
    os.environ |= {"LC_ALL": "C.UTF-8", "TZ": "UTC", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
