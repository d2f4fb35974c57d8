"""The rootdir: what is refused, with which facts, and what survives."""

import json
import os
from pathlib import Path

import pytest

from gkfs.daemon import superblock
from gkfs.daemon.superblock import Ending, Rootdir
from gkfs.errors import ExitStatus, GkfsError
from gkfs.hostfile import Features, Hostfile, Sync
from gkfs.limits import BOOT_EPOCH_MAX

HOSTS = Hostfile("a" * 32, 2, {})


def refused(path: Path, hosts: Hostfile = HOSTS, index: int = 0) -> str:
    with pytest.raises(GkfsError) as caught:
        Rootdir(path, hosts, index)
    assert caught.value.status == ExitStatus.ROOTDIR
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_each_start_is_a_new_epoch(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        rootdir = Rootdir(tmp_path / "d", HOSTS, 0)
        assert rootdir.superblock.boot_epoch == epoch
        rootdir.close()
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700


def test_port_is_remembered(tmp_path: Path) -> None:
    rootdir = Rootdir(tmp_path, HOSTS, 0)
    rootdir.remember_port(4711)
    rootdir.close()
    rootdir = Rootdir(tmp_path, HOSTS, 0)
    assert rootdir.superblock.port == 4711
    rootdir.close()


def test_second_daemon_learns_who_uses_it(tmp_path: Path) -> None:
    rootdir = Rootdir(tmp_path, HOSTS, 0)
    assert f"is in use by process {os.getpid()} on" in refused(tmp_path)
    rootdir.close()
    Rootdir(tmp_path, HOSTS, 0).close()


def test_rootdir_of_another_file_system_is_refused(tmp_path: Path) -> None:
    Rootdir(tmp_path, HOSTS, 0).close()
    assert f"fsid {'a' * 32}" in refused(tmp_path, Hostfile("b" * 32, 2, {}))
    assert "daemon count 2, in the hostfile 3" in refused(tmp_path, Hostfile("a" * 32, 3, {}))
    assert "daemon index 0" in refused(tmp_path, index=1)


def test_missing_parent_is_not_created(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "missing" / "d")


def test_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("")
    refused(tmp_path / "d")


def test_damaged_superblock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "superblock.json").write_text("{")
    assert "damaged" in refused(tmp_path)
    (tmp_path / "superblock.json").write_text('{"format": 1}')
    assert "damaged" in refused(tmp_path)


def test_data_without_superblock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    assert "has data but no" in refused(tmp_path)


def test_used_up_epochs_are_refused(tmp_path: Path) -> None:
    Rootdir(tmp_path, HOSTS, 0).close()
    path = tmp_path / "superblock.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot_epoch": BOOT_EPOCH_MAX}))
    assert "65535 times" in refused(tmp_path)


def test_how_the_last_run_ended_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*, opens: bool = True, ends: bool) -> Ending:
        rootdir = Rootdir(tmp_path, HOSTS, 0)
        if opens:
            rootdir.opened()
        if ends:
            rootdir.end()
        rootdir.close()
        return rootdir.ending

    def reboot(name: str) -> None:
        (tmp_path / "boot_id").write_text(name)
        monkeypatch.setattr(superblock, "_BOOT_ID", tmp_path / "boot_id")

    assert run(ends=True) is Ending.CLEAN
    assert run(ends=False) is Ending.CLEAN
    assert run(ends=False) is Ending.KILLED
    reboot("second")
    assert (
        run(opens=False, ends=False) is Ending.POWER
    )  # it could not open its stores: they are still as they were
    assert run(ends=True) is Ending.POWER


def test_epoch_of_the_power_failure_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Rootdir(tmp_path, HOSTS, 0)
    first.opened()
    first.close()
    (tmp_path / "boot_id").write_text("another")
    monkeypatch.setattr(superblock, "_BOOT_ID", tmp_path / "boot_id")
    for _ in range(2):
        again = Rootdir(tmp_path, HOSTS, 0)
        again.opened()
        assert again.superblock.power_epoch == 1
        again.close()


def test_features_are_those_of_the_file_system(tmp_path: Path) -> None:
    made = HOSTS._replace(features=Features(True, Sync.COMMIT))
    Rootdir(tmp_path, made, 0).close()
    assert "checksums True, in the hostfile False" in refused(tmp_path, HOSTS)
    other = Rootdir(tmp_path, made._replace(features=Features(True, Sync.NONE)), 0)
    assert other.superblock.features == Features(True, Sync.NONE)  # what is synced may change
    other.close()
