"""What a lost client leaves behind is given back.

The file system is made when test_lifecycle.py starts, so that most of the minute of grace has passed here.
"""

import os

from gkfs.limits import HOLDER_GONE_S
from tests.mount.file_system import FileSystem, wait_until


def test_what_a_killed_client_held_is_given_back(without_a_client: FileSystem) -> None:
    limit_s = HOLDER_GONE_S + 30
    wait_until(
        lambda: without_a_client.status()["used_bytes"] == 0, "the chunks are removed", limit_s, every_s=1.0
    )
    assert os.listdir(without_a_client.mounts[0]) == []
