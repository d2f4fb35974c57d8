"""Random daemons are killed under load. By default 12 times; as often as wanted, with a check after each:

SOAK_KILLS=200 pytest tests/mount/test_soak.py
"""

import os
from pathlib import Path
from typing import Final

import pytest

from gkfs.limits import REQUEST_TIMEOUT_S
from tests.mount import conftest
from tests.mount.soak import DAEMONS, soak

_KILLS: Final = int(os.environ.get("SOAK_KILLS", "0"))
_SEED: Final = int(os.environ.get("SOAK_SEED", "1"))


@pytest.mark.limit_s(200 + 30 * _KILLS)
def test_nothing_is_lost_when_random_daemons_are_killed(tmp_path: Path) -> None:
    """Not a byte, name or appended line that a call has returned for; and no call takes a minute."""
    file_system = conftest.open_file_system(tmp_path / "gkfs", DAEMONS, 2, embedded=False)
    try:
        done = soak(file_system, _KILLS or 12, 1 if _KILLS else 4, _SEED)
    finally:
        problems = conftest.close_file_system(file_system)
    assert problems == []
    assert done.longest_s < REQUEST_TIMEOUT_S
