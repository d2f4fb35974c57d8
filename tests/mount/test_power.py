"""A node goes down and comes back with what its disk had: mounts on other nodes show that, not what they knew."""

import errno
import json
import os
import shutil
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.mount.calls import errno_of, opened
from tests.mount.conftest import Cluster
from tests.mount.file_system import FileSystem

OLD, NEW = b"o" * 100, b"n" * 5000
LONG_OLD, LONG_NEW = b"O" * 300_000, b"N" * 600_000


def _copy_rootdir(file_system: FileSystem, copy: Path) -> None:
    file_system.kill_daemon(0)
    shutil.copytree(file_system.rootdir / "daemon-0", copy, ignore=shutil.ignore_patterns("socket"))
    file_system.restart_daemon(0)


def _lose_power(file_system: FileSystem, before: Path) -> None:
    """Put what the disk had in the place of what the daemon has written since; nothing of it was synced."""
    rootdir = file_system.rootdir / "daemon-0"
    file_system.kill_daemon(0)
    shutil.rmtree(rootdir)
    shutil.copytree(before, rootdir)
    superblock = rootdir / "superblock.json"
    superblock.write_text(json.dumps(json.loads(superblock.read_text()) | {"node_boot": "an earlier one"}))
    file_system.restart_daemon(0)


def test_who_syncs_what_a_node_has_lost_is_told(cluster: Cluster, tmp_path: Path) -> None:
    file_system = cluster(1)
    mountdir = file_system.mounts[0]
    flags = os.O_RDWR | os.O_CREAT
    with ExitStack() as stack:

        def make(name: str) -> int:
            return stack.enter_context(opened(mountdir / name, flags))

        synced, overwritten, appended, small = map(make, ("synced", "overwritten", "appended", "small"))
        for file in (synced, overwritten, appended):
            os.write(file, LONG_OLD)
            os.fsync(file)
        os.write(small, OLD)
        os.fsync(small)
        _copy_rootdir(file_system, tmp_path / "before")
        new = make("new")
        os.pwrite(overwritten, LONG_OLD, 0)
        os.write(appended, LONG_NEW)
        os.write(small, OLD)
        time.sleep(1.5)  # nothing is on its way any more
        _lose_power(file_system, tmp_path / "before")
        assert os.pread(synced, len(LONG_OLD), 0) == LONG_OLD
        os.fsync(synced)
        for file in (overwritten, appended, small, new):
            assert errno_of(partial(os.fsync, file)) == errno.EIO
        for file in (overwritten, appended, small):
            os.fsync(file)  # it has been told


def test_what_a_node_has_lost_is_not_what_others_go_on_with(cluster: Cluster, tmp_path: Path) -> None:
    file_system = cluster(1)
    mountdir = file_system.mounts[0]
    small, large = mountdir / "small", mountdir / "large"
    small.write_bytes(OLD)
    large.write_bytes(LONG_OLD)
    _copy_rootdir(file_system, tmp_path / "before")
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
    assert {entry.name: entry.stat().st_size for entry in os.scandir(mountdir)} == {
        "small": len(OLD),
        "large": len(LONG_OLD),
    }
    small.chmod(0o600)
    assert small.stat().st_mode & 0o777 == 0o600
    with open(large, "r+b") as file:
        os.ftruncate(file.fileno(), 10)
        assert file.read() == LONG_OLD[:10]
    large.write_bytes(b"short")
    assert large.read_bytes() == b"short"
