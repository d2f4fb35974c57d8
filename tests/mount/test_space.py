"""Disks and limits that are full: who writes is told, what was acknowledged is there, removals make room."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.mount import conftest
from tests.mount.calls import MIB, errno_of, noise, opened
from tests.mount.file_system import FileSystem, wait_until
from tests.mount.full_disk import NO_ROOM, OnDisk, Report, WithDiskOfOne, assert_all_there, disk, write_until_full

Up = Callable[..., list[Path]]
_FULL_AGAIN_S = 30.0
# What daemons may say that share a disk with little room: RocksDB needs some to merge files.
_SHORT = ["No space left", "what was kept for removals"]


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of 200 MB, or as many as the test says."""
    with disk(tmp_path / "disk", getattr(request, "param", 200) * MIB) as folder:
        yield folder


@pytest.fixture
def up(small_disk: Path) -> Iterator[Up]:
    """Bring a file system up, which ends with the test, before the disk does: its mounts."""
    opened: list[FileSystem] = []

    def bring_up(file_system: FileSystem, *options: str) -> list[Path]:
        conftest.bring_up(file_system, 2, *options)
        opened.append(file_system)
        return file_system.mounts

    yield bring_up
    problems = [problem for file_system in opened for problem in conftest.close_file_system(file_system)]
    if problems:
        pytest.fail("\n".join(problems))


def _errors(reports: list[Report]) -> dict[int, int]:
    total: dict[int, int] = {}
    for report in reports:
        for number, count in report.errors.items():
            total[number] = total.get(number, 0) + count
    return total


def _remove_half(mountdir: Path, reports: list[Report]) -> None:
    for report in reports:
        for number, name in enumerate(sorted(report.acknowledged)):
            if number % 2:
                os.unlink(mountdir / name)
                del report.acknowledged[name]


def _write_again(mountdir: Path, size: int = 24 * MIB) -> None:
    """Write one more file, as soon as there is room. Each attempt is a new one, whose chunks go elsewhere."""

    def fits() -> bool:
        if (mountdir / "again").exists():
            os.truncate(mountdir / "again", 0)
            os.unlink(mountdir / "again")
        number = errno_of(lambda: (mountdir / "again").write_bytes(noise(size)))
        assert number in (0, *NO_ROOM), os.strerror(number)
        return number == 0

    wait_until(fits, "what was removed has made room", _FULL_AGAIN_S, 0.3)
    assert (mountdir / "again").read_bytes() == noise(size)


@pytest.mark.parametrize("options", [("--write-through",), ()], ids=["waiting", "behind"])
def test_a_full_disk_is_enospc_and_removals_make_room(
    options: tuple[str, ...], small_disk: Path, tmp_path: Path, up: Up
) -> None:
    file_system = OnDisk(tmp_path / "gkfs", 3, small_disk)
    file_system.expected_trouble += _SHORT
    here, there = up(file_system, *options)
    reports = write_until_full([here, there], writers=4, refusals=5)
    assert _errors(reports).keys() == {errno.ENOSPC}
    assert assert_all_there(there, reports) > 100 * MIB
    assert file_system.problems() == []
    found = os.statvfs(here)
    assert found.f_bavail * found.f_frsize < 50 * MIB
    _remove_half(here, reports)
    _write_again(there)
    reports += write_until_full([here, there], writers=2, refusals=2)
    assert_all_there(here, reports)


@pytest.mark.parametrize("small_disk", [64], indirect=True)
def test_space_of_removed_small_files_comes_back(small_disk: Path, tmp_path: Path, up: Up) -> None:
    """Their data are in records, which RocksDB removes by writing that they are."""
    file_system = OnDisk(tmp_path / "gkfs", 1, small_disk)
    file_system.expected_trouble += _SHORT
    here, there = up(file_system)
    reports = write_until_full([here, there], writers=2, refusals=5, sizes=(8192,))
    assert _errors(reports).keys() == {errno.ENOSPC}
    assert assert_all_there(there, reports) > 12 * MIB
    for report in reports:
        for name in report.acknowledged:
            os.unlink(here / name)
    _write_again(there)


def test_removals_work_when_others_have_filled_the_disk_to_the_last_byte(
    small_disk: Path, tmp_path: Path, up: Up
) -> None:
    file_system = OnDisk(tmp_path / "gkfs", 2, small_disk)
    file_system.expected_trouble += _SHORT
    here, there = up(file_system)
    for number in range(400):
        (here / f"{number}").write_bytes(noise(20_000 if number % 2 else 5000, number))
    with open(small_disk / "foreign", "wb", buffering=0) as foreign:
        while errno_of(lambda: foreign.write(bytes(MIB))) == 0:
            pass
        while errno_of(lambda: foreign.write(bytes(4096))) == 0:
            pass
    assert errno_of(lambda: (here / "new").write_bytes(bytes(MIB))) == errno.ENOSPC
    for number in range(200, 400):  # each is a write of a record; some need several
        os.unlink((here, there)[number % 2] / f"{number}")
    os.rename(here / "0", here / "renamed")
    for number in range(1, 200):
        assert (there / f"{number}").read_bytes() == noise(20_000 if number % 2 else 5000, number)
    (small_disk / "foreign").unlink()
    _write_again(there)
    assert file_system.problems() == []


@pytest.mark.parametrize("small_disk", [40], indirect=True)
def test_one_full_daemon_of_three_refuses_and_the_others_take(small_disk: Path, tmp_path: Path, up: Up) -> None:
    file_system = WithDiskOfOne(tmp_path / "gkfs", 3, 1, small_disk)
    here, there = up(file_system)
    reports = write_until_full([here, there], writers=2, refusals=4)
    assert _errors(reports).keys() == {errno.ENOSPC}
    assert_all_there(there, reports)
    made = [errno_of((here / f"{number}").touch) for number in range(30)]
    assert made.count(0) > 10, "files whose records are on the other daemons can be made"
    _remove_half(there, reports)
    _write_again(here)


def test_beyond_the_capacity_is_edquot_and_df_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, up: Up
) -> None:
    monkeypatch.setenv("GKFS_CAPACITY", "40M")
    file_system = FileSystem(tmp_path / "gkfs", 2)
    here, there = up(file_system)
    found = os.statvfs(here)
    assert found.f_blocks * found.f_frsize == 80 * MIB
    reports = write_until_full([here, there], writers=4, refusals=5)
    assert _errors(reports).keys() == {errno.EDQUOT}
    stored = assert_all_there(there, reports)
    assert 60 * MIB < stored < 80 * MIB
    for status in file_system.daemon_status():
        assert status["capacity_bytes"] == 40 * MIB
        assert status["used_bytes"] + status["records_bytes"] < 41 * MIB
    wait_until(lambda: os.statvfs(here).f_bavail * 4096 < 20 * MIB, "df shows it")
    largest = max(reports[0].acknowledged, key=lambda name: reports[0].acknowledged[name][0])
    with opened(here / largest, os.O_RDWR) as file:  # what is there already can be written again
        os.pwrite(file, os.pread(file, MIB, 0), 0)
        os.fsync(file)
    file_system.kill_daemon(0)
    file_system.restart_daemon(0)
    file_system.kill_daemon(1)
    file_system.restart_daemon(1)
    reports += write_until_full([here, there], writers=2, refusals=2)
    assert _errors(reports).keys() == {errno.EDQUOT}
    assert assert_all_there(here, reports) < 80 * MIB
    _remove_half(there, reports)
    _write_again(here)


def test_small_files_count_towards_the_capacity_until_they_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, up: Up
) -> None:
    monkeypatch.setenv("GKFS_CAPACITY", "16M")
    file_system = FileSystem(tmp_path / "gkfs", 1)
    here, there = up(file_system)
    reports = write_until_full([here, there], writers=2, refusals=5, sizes=(6000,))
    assert _errors(reports).keys() == {errno.EDQUOT}
    assert 7 * MIB < assert_all_there(there, reports) < 16 * MIB
    for report in reports:
        for name in report.acknowledged:
            os.unlink(here / name)
    _write_again(there, 5 * MIB)


def _with_a_file_written_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, up: Up) -> Path:
    """A mount of a file system for 16 MiB, with a `file` of one."""
    monkeypatch.setenv("GKFS_CAPACITY", "16M")
    here, _ = up(FileSystem(tmp_path / "gkfs", 1))
    (here / "file").write_bytes(bytes(MIB))
    return here


def _write_until_there_is_a_lease(file: int) -> None:
    """It is asked for beside writes: those that come soon after are not waited for."""
    for _ in range(20):
        os.pwrite(file, bytes(4096), 0)
        time.sleep(0.01)


def _fill(here: Path) -> None:
    with pytest.raises(OSError, match="quota"):
        (here / "rest").write_bytes(bytes(20 * MIB))


def test_each_writer_is_told_of_what_was_lost_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, up: Up
) -> None:
    """Who only reads, or closes late, must not take the error from those who have to know."""
    here = _with_a_file_written_behind(tmp_path, monkeypatch, up)
    with opened(here / "file", os.O_WRONLY) as early, opened(here / "file", os.O_WRONLY) as other:
        _write_until_there_is_a_lease(early)
        _fill(here)
        os.pwrite(early, noise(3 * MIB), MIB)
        os.close(os.open(here / "file", os.O_RDONLY))
        for writer in (early, other):
            assert errno_of(partial(os.fsync, writer)) == errno.EDQUOT
            assert errno_of(partial(os.fsync, writer)) == 0, "once"
        with opened(here / "file", os.O_WRONLY) as late:
            assert errno_of(partial(os.fsync, late)) == 0


def test_what_was_lost_is_told_to_who_opens_next_when_nobody_knows_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, up: Up
) -> None:
    """Fsync by another handle than that of the write must not say that all was well."""
    here = _with_a_file_written_behind(tmp_path, monkeypatch, up)
    with opened(here / "file", os.O_WRONLY) as early:
        _write_until_there_is_a_lease(early)
        _fill(here)
        os.pwrite(early, noise(MIB), MIB)
        os.close(os.open(here / "file", os.O_RDONLY))  # it leaves, and fails
        with opened(here / "file", os.O_WRONLY) as late:
            assert errno_of(partial(os.fsync, late)) == errno.EDQUOT
            assert errno_of(partial(os.fsync, late)) == 0, "once"
        with opened(here / "file", os.O_WRONLY) as later:
            assert errno_of(partial(os.fsync, later)) == 0, "it is known"
        assert errno_of(partial(os.fsync, early)) == errno.EDQUOT
