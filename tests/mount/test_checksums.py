"""Checksums on real mounts: rotten data are EIO to who reads them, and named; what was acknowledged never is."""

import errno
import multiprocessing
import os
import random
import re
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from gkfs.limits import CHECKSUM_BLOCK_BYTES
from tests.mount.calls import MIB, errno_of, noise, opened
from tests.mount.conftest import Cluster
from tests.mount.file_system import FileSystem
from tests.rot import flip

BLOCK: Final = CHECKSUM_BLOCK_BYTES
_KILLS: Final = 4


@pytest.fixture(autouse=True)
def _with_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GKFS_CHECKSUMS", "1")


def chunk_files(file_system: FileSystem, chunk: int) -> list[Path]:
    """The files with this number of a chunk."""
    return [path for path in file_system.rootdir.glob("*/chunks/*/*") if path.name.endswith(f".{chunk:08x}")]


def test_rotten_block_is_eio_named_by_fsck_counted_and_healed_by_overwriting(
    cluster: Cluster,
) -> None:
    file_system = cluster(2, mounts=0)
    here = file_system.mount("--direct-io")  # so that the kernel has no copy
    data = noise(3 * MIB)
    (here / "folder").mkdir()
    path = here / "folder" / "file"
    path.write_bytes(data)
    (rotten,) = chunk_files(file_system, 1)
    flip(rotten, 10 * BLOCK + 5, 16)
    file_system.expected_trouble.append("are not what was written")
    bad = MIB + 10 * BLOCK
    with opened(path, os.O_RDWR) as file:
        for offset, size in ((bad, BLOCK), (bad + 7, 1), (bad - BLOCK, MIB // 2), (0, 3 * MIB)):
            assert errno_of(partial(_read_all, file, size, offset)) == errno.EIO
        assert os.pread(file, MIB, 0) == data[:MIB]
        assert os.pread(file, 10 * BLOCK, MIB) == data[MIB:bad]
        assert os.pread(file, MIB, bad + BLOCK) == data[bad + BLOCK : bad + BLOCK + MIB]
        assert sum(daemon["damaged_blocks"] for daemon in file_system.daemon_status()) == 1
        assert "1 block found damaged" in file_system.gkfs("status", "-H", file_system.hostfile).stdout
        found = file_system.gkfs("fsck", "-H", file_system.hostfile, check=False)
        assert found.returncode == 11
        line = rf"checksum: /folder/file, daemon \d: chunk 1, 1 blocks are not what was written, .* byte {bad}\n"
        assert re.match(line, found.stdout)
        assert file_system.gkfs("fsck", "-H", file_system.hostfile, "--no-checksums").returncode == 0
        os.pwrite(file, b"z" * BLOCK, bad)
        assert os.pread(file, 3 * MIB, 0)[:bad] == data[:bad]
    whole = data[:bad] + b"z" * BLOCK + data[bad + BLOCK :]
    assert path.read_bytes() == whole
    assert ", 3 verified;" in file_system.gkfs("fsck", "-H", file_system.hostfile).stdout


def _read_all(file: int, size: int, offset: int) -> bytes:
    """A read that ends at an error may be short; the next one has it."""
    data = b""
    while len(data) < size and (piece := os.pread(file, size - len(data), offset + len(data))):
        data += piece
    return data


def test_rotten_block_stops_stage_out_with_its_name(cluster: Cluster, tmp_path: Path) -> None:
    file_system = cluster(2)
    here = file_system.mounts[0]
    (here / "file").write_bytes(noise(2 * MIB))
    file_system.umount(here)
    flip(chunk_files(file_system, 0)[0], 0, 16)
    file_system.expected_trouble.append("are not what was written")
    file_system.expected_faults.append("checksum: /file")
    target = tmp_path / "target"
    done = file_system.gkfs("stage-out", "-H", file_system.hostfile, "/", target, check=False)
    assert done.returncode != 0
    assert "file" in done.stderr
    assert "Input/output error" in done.stderr


def test_checksums_stay_with_the_file_system(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    file_system = cluster(2)
    (file_system.mounts[0] / "file").write_bytes(noise(MIB))
    file_system.umount(file_system.mounts[0])
    file_system.stop()
    monkeypatch.delenv("GKFS_CHECKSUMS")
    file_system.start()
    assert file_system.status()["checksums"] is True
    flip(chunk_files(file_system, 0)[0], 0, 16)
    file_system.expected_trouble.append("are not what was written")
    file_system.expected_faults.append("checksum: /file")
    here = file_system.mount()
    assert errno_of((here / "file").read_bytes) == errno.EIO


def _overwrite(path: Path, model_path: Path, size: int, ended: Any) -> None:
    """Overwrite places of *size* bytes until *ended*; then *model_path* has what must be there. A process."""
    random_ = random.Random(size)
    model = bytearray(MIB + 8 * size)
    path.write_bytes(model)
    with opened(path, os.O_RDWR) as file:
        turn = 0
        while not ended.is_set():
            turn += 1
            offset = random_.randrange(8) * size + MIB - size // 2
            data = bytes([turn % 255 + 1]) * size
            assert os.pwrite(file, data, offset) == size
            model[offset : offset + size] = data
    model_path.write_bytes(model)


def test_what_was_acknowledged_is_readable_after_kills_during_overwrites(cluster: Cluster, tmp_path: Path) -> None:
    """Blocks are overwritten in whole, in part and in large pieces, while daemons are killed again and again."""
    file_system = cluster(2, mounts=1)
    here = file_system.mounts[0]
    spawn = multiprocessing.get_context("spawn")
    ended = spawn.Event()
    sizes = (100, BLOCK, 3 * BLOCK + 50, 300 << 10)
    writers = [
        spawn.Process(target=_overwrite, args=(here / f"{size}", tmp_path / f"{size}", size, ended))
        for size in sizes
    ]
    for writer in writers:
        writer.start()
    try:
        for turn in range(_KILLS):
            ended.wait(2.5)  # so that checksums get stored, and emptied again
            file_system.kill_daemon(turn % 2)
            file_system.restart_daemon(turn % 2)
        ended.wait(0.5)
    finally:
        ended.set()
        for writer in writers:
            writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * len(sizes)
    file_system.umount(here)
    again = file_system.mount()
    for size in sizes:
        assert (again / f"{size}").read_bytes() == (tmp_path / f"{size}").read_bytes()
    assert [daemon["damaged_blocks"] for daemon in file_system.daemon_status()] == [0, 0]
    assert file_system.gkfs("fsck", "-H", file_system.hostfile).returncode == 0


def test_log_that_rots_keeps_the_daemon_from_starting(cluster: Cluster) -> None:
    """Else it would end there, and what was acknowledged after that would be lost without a word."""
    file_system = cluster(1)
    here = file_system.mounts[0]
    for number in range(100):
        (here / f"{number}").mkdir()
    file_system.kill_daemon(0)
    (log,) = [path for path in file_system.rootdir.glob("*/metadata/*.log") if path.stat().st_size]
    flip(log, log.stat().st_size // 2, 16)
    started = file_system.gkfs(
        *("daemon", "-r", file_system.rootdir, "-H", file_system.hostfile, "--index", "0"), check=False
    )
    assert started.returncode == 3
    assert re.search(r"metadata store .* cannot be opened: Corruption", started.stderr)
    flip(log, log.stat().st_size // 2, 16)  # as it was
    file_system.restart_daemon(0)
    assert sorted(int(path.name) for path in here.iterdir()) == list(range(100))
