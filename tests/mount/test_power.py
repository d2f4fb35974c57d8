"""A node goes down and comes back with what its disk had: mounts on other nodes show that, not what they knew."""

import json
import os
import shutil
from pathlib import Path

from tests.mount.conftest import Cluster
from tests.mount.file_system import FileSystem

OLD, NEW = b"o" * 100, b"n" * 5000
LONG_OLD, LONG_NEW = b"O" * 300_000, b"N" * 600_000


def _lose_power(file_system: FileSystem, before: Path) -> None:
    """Put what the disk had in the place of what the daemon has written since; nothing of it was synced."""
    rootdir = file_system.rootdir / "daemon-0"
    file_system.kill_daemon(0)
    shutil.rmtree(rootdir)
    shutil.copytree(before, rootdir)
    superblock = rootdir / "superblock.json"
    superblock.write_text(json.dumps(json.loads(superblock.read_text()) | {"node_boot": "an earlier one"}))
    file_system.restart_daemon(0)


def test_what_a_node_has_lost_is_not_what_others_go_on_with(cluster: Cluster, tmp_path: Path) -> None:
    file_system = cluster(1)
    mountdir = file_system.mounts[0]
    small, large = mountdir / "small", mountdir / "large"
    small.write_bytes(OLD)
    large.write_bytes(LONG_OLD)
    file_system.kill_daemon(0)
    shutil.copytree(file_system.rootdir / "daemon-0", tmp_path / "before", ignore=shutil.ignore_patterns("socket"))
    file_system.restart_daemon(0)
    small.write_bytes(NEW)
    large.write_bytes(LONG_NEW)
    for mode in (0o600, 0o640, 0o644, 0o666):
        small.chmod(mode)
    assert small.read_bytes() == NEW
    assert large.read_bytes() == LONG_NEW
    _lose_power(file_system, tmp_path / "before")
    assert small.read_bytes() == OLD
    assert large.read_bytes() == LONG_OLD
    assert small.stat().st_mode & 0o777 == 0o644
    small.chmod(0o600)
    assert small.stat().st_mode & 0o777 == 0o600
    with open(large, "r+b") as file:
        os.ftruncate(file.fileno(), 10)
        assert file.read() == LONG_OLD[:10]
    large.write_bytes(b"short")
    assert large.read_bytes() == b"short"
