"""Packs that were not completed, are damaged, or find no room: found, named in one line, and nothing is left."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gkfs import manifest
from tests.cli.packs import MIB, state
from tests.cli.workplace import TIMEOUT_S, Workplace, eventually
from tests.rot import flip

pytestmark = pytest.mark.usefixtures("fuse")


@pytest.fixture
def mnt(workplace: Workplace) -> Iterator[Path]:
    """The mount of two daemons' file system with files of 40 MiB together; it must have no faults at the end."""
    workplace.start_daemons(2)
    workplace.ok("mount", "-H", workplace.hosts, workplace.mnt)
    for number in range(40):
        (workplace.mnt / f"f{number:02d}").write_bytes(os.urandom(MIB - number))
    yield workplace.mnt
    workplace.ok("umount", workplace.mnt)
    workplace.ok("fsck", "-H", workplace.hosts)
    workplace.ok("stop", "-H", workplace.hosts)


@pytest.fixture
def folder(workplace: Workplace) -> Path:
    return workplace.folder / "pack"


def movers(workplace: Workplace) -> list[int]:
    return [pid for pid, name in workplace.processes().items() if " mover" in name]


@contextmanager
def half_way(workplace: Workplace, *arguments: str | Path) -> Iterator["subprocess.Popen[str]"]:
    """`gkfs pack` that has begun to write, and cannot go on within the block: no daemon answers.

    A hole of 64 GiB, which takes no space, makes the pack take seconds.
    """
    folder = workplace.folder / "pack"
    (workplace.mnt / "hole").touch()
    os.truncate(workplace.mnt / "hole", 64 << 30)
    daemons = [pid for pid, name in workplace.processes().items() if " daemon " in name]
    assert len(daemons) == 2
    before = set(folder.glob("data-*")) if folder.exists() else set()
    process = workplace.start(["pack", "-H", workplace.hosts, folder, *arguments])
    eventually(lambda: set(folder.glob("data-*.tar")) - before, "a container")
    for pid in daemons:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert process.poll() is None
        yield process
    finally:
        for pid in daemons:
            os.kill(pid, signal.SIGCONT)


def end(process: "subprocess.Popen[str]", number: int) -> tuple[int, str]:
    """Its status and stderr once the signal has ended it."""
    process.send_signal(number)
    _, err = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, err


def test_a_killed_pack_is_no_pack_and_the_next_one_removes_its_remains(
    workplace: Workplace, mnt: Path, folder: Path
) -> None:
    with half_way(workplace) as process:
        end(process, signal.SIGKILL)
    eventually(lambda: not movers(workplace), "movers of a dead leader end")
    left = set(os.listdir(folder))
    assert any(manifest.pack_of(name) for name in left)
    assert manifest.NAME not in left
    line = workplace.fails(14, "unpack", "-H", workplace.hosts, folder, "/new")
    assert line.endswith(f"{folder}: the pack was not completed: there is no {manifest.NAME}")
    assert not (mnt / "new").exists()
    (mnt / "hole").unlink()
    workplace.ok("pack", "-H", workplace.hosts, folder)
    assert not set(os.listdir(folder)) & left
    workplace.ok("unpack", "--verify", folder)
    assert len(os.listdir(folder)) == 7  # three containers, their indexes, the manifest


def test_a_pack_stays_whole_while_another_that_shall_replace_it_is_killed(
    workplace: Workplace, mnt: Path, folder: Path
) -> None:
    workplace.ok("pack", "-H", workplace.hosts, folder)
    with half_way(workplace, "--force") as process:
        end(process, signal.SIGKILL)
    eventually(lambda: not movers(workplace), "movers of a dead leader end")
    (mnt / "hole").unlink()
    workplace.ok("unpack", "-H", workplace.hosts, folder, "/again")
    assert (mnt / "again" / "f07").read_bytes() == (mnt / "f07").read_bytes()


def test_ctrl_c_leaves_nothing(workplace: Workplace, mnt: Path, folder: Path) -> None:
    with half_way(workplace) as process:
        assert end(process, signal.SIGINT) == (128 + signal.SIGINT, "")
        assert not folder.exists()
        assert not movers(workplace)


def test_a_mover_that_dies_is_one_line_and_leaves_nothing(workplace: Workplace, mnt: Path, folder: Path) -> None:
    with half_way(workplace) as process:
        os.kill(movers(workplace)[0], signal.SIGKILL)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert err.startswith("gkfs: member ")
    assert err.endswith(" was killed by SIGKILL\n")
    assert not folder.exists()


def test_two_packs_into_one_folder_at_once_are_one(workplace: Workplace, mnt: Path, folder: Path) -> None:
    with half_way(workplace) as process:
        line = workplace.fails(1, "pack", "-H", workplace.hosts, folder)
        assert line.endswith(f"process {process.pid} on {os.uname().nodename} is packing into it")
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, err) == (0, "")
    workplace.ok("unpack", "--verify", folder)


def test_an_unpack_that_was_killed_is_completed_by_force(workplace: Workplace, mnt: Path, folder: Path) -> None:
    (mnt / "tree" / "of" / "some").mkdir(parents=True)
    for number in range(300):
        (mnt / "tree" / f"d{number}" / "e").mkdir(parents=True)
    (mnt / "tree" / "of" / "link").hardlink_to(mnt / "f03")
    expected = state(mnt)
    workplace.ok("pack", "-H", workplace.hosts, folder)
    process = workplace.start(["unpack", "-H", workplace.hosts, folder, "/new"])
    eventually((mnt / "new" / "tree" / "of").exists, "a part of the tree")
    end(process, signal.SIGKILL)
    eventually(lambda: not movers(workplace), "movers of a dead leader end")
    workplace.ok("unpack", "-H", workplace.hosts, folder, "/new", "--force")
    assert workplace.gkfs("fsck", "-H", workplace.hosts, "--repair").status in (0, 10)
    assert state(mnt / "new") == expected


def contents(folder: Path) -> dict[str, Any]:
    """Sizes of the pack's files by name."""
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def test_a_flipped_byte_is_found_and_named(workplace: Workplace, mnt: Path, folder: Path) -> None:
    workplace.ok("pack", "-H", workplace.hosts, folder)
    workplace.ok("unpack", "--verify", folder)
    (data, *_) = sorted(folder.glob("data-*.tar"))
    listed = subprocess.check_output(["tar", "-tf", data], text=True).splitlines()
    flip(data, 1000, 4)
    done = workplace.gkfs("unpack", "--verify", folder)
    assert done.status == 14
    assert done.err.splitlines() == [
        f"gkfs: {folder}: {data.name}: {listed[0]} at 0: its checksum is wrong",
        f"gkfs: {folder}: damaged in 1 places",
    ]
    line = workplace.fails(14, "unpack", "-H", workplace.hosts, folder, "/new")
    assert line.endswith(f"{data}: {listed[0]} at 0: its checksum is wrong")
    flip(data, 1000, 4)
    workplace.ok("unpack", "--verify", folder)


def test_damage_anywhere_is_found_by_verify_and_refused_by_unpack(
    workplace: Workplace, mnt: Path, folder: Path
) -> None:
    workplace.ok("pack", "-H", workplace.hosts, folder)
    places = [(name, offset) for name, size in contents(folder).items() for offset in (20, size - 2)]
    for number, (name, offset) in enumerate(places):
        if name.endswith(".tar") and offset > 1000:  # the zeros at the end of an archive are for tar
            offset -= 1024
        flip(folder / name, offset, 4)
        done = workplace.gkfs("unpack", "--verify", folder)
        assert done.status == 14, (name, offset)
        assert name in done.err
        if number % 2:
            workplace.fails(14, "unpack", "-H", workplace.hosts, folder, f"/new{number}")
        flip(folder / name, offset, 4)
    workplace.ok("unpack", "--verify", folder)


@pytest.mark.parametrize("ending", [".tar", ".index"])
def test_a_file_that_was_cut_or_is_missing_is_named(
    workplace: Workplace, mnt: Path, folder: Path, ending: str
) -> None:
    workplace.ok("pack", "-H", workplace.hosts, folder)
    (data, *_) = sorted(folder.glob(f"data-*{ending}"))
    size = data.stat().st_size
    kept = data.read_bytes()
    os.truncate(data, size - 700)
    done = workplace.gkfs("unpack", "--verify", folder)
    assert done.status == 14
    assert data.name in done.err
    assert (f"{data.name}: {size - 700} bytes, should be {size}" in done.err) == (ending == ".tar")
    assert data.name in workplace.fails(14, "unpack", "-H", workplace.hosts, folder, "/new")
    data.unlink()
    assert f"{data.name}: No such file" in workplace.fails(14, "unpack", "-H", workplace.hosts, folder, "/new")
    data.write_bytes(kept)
    workplace.ok("unpack", "-H", workplace.hosts, folder, "/new")


def test_a_folder_without_a_pack_is_one_line(workplace: Workplace) -> None:
    (workplace.folder / "empty").mkdir()
    assert workplace.fails(14, "unpack", workplace.folder / "empty").endswith(
        f"there is no pack: no {manifest.NAME}"
    )
    assert workplace.fails(14, "unpack", workplace.folder / "no").endswith("No such file or directory")
    (workplace.folder / "empty" / manifest.NAME).write_text("{}")
    assert "format" in workplace.fails(14, "unpack", "--verify", workplace.folder / "empty")
    (workplace.folder / "empty" / manifest.NAME).write_text("garbage")
    assert "is damaged" in workplace.fails(14, "unpack", "--verify", workplace.folder / "empty")


@pytest.fixture
def small_disk(workplace: Workplace) -> Iterator[Path]:
    """A disk of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("no small disk: only root mounts a tmpfs")
    disk = workplace.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "gkfs-test", disk], check=True)
    yield disk
    # A daemon that has just ended may hold its files a moment longer.
    eventually(lambda: subprocess.run(["umount", disk], check=False).returncode == 0, "the small disk is free")


def test_a_full_target_disk_is_one_line_and_leaves_nothing(
    workplace: Workplace, mnt: Path, small_disk: Path
) -> None:
    line = workplace.fails(1, "pack", "-H", workplace.hosts, small_disk / "pack")
    assert line.startswith(f"gkfs: {small_disk / 'pack'}/data-")
    assert line.endswith("No space left on device")
    assert os.listdir(small_disk) == []


def test_full_daemons_are_one_line(workplace: Workplace, mnt: Path, folder: Path, small_disk: Path) -> None:
    workplace.ok("pack", "-H", workplace.hosts, folder)
    hosts = workplace.folder / "small-hosts"
    (small_disk / "root").mkdir()
    workplace.ok("start", "-r", small_disk / "root", "-H", hosts)
    line = workplace.fails(1, "unpack", "-H", hosts, folder)
    assert "No space left on device" in line
    assert line.startswith("gkfs: /f")
    workplace.ok("stop", "-H", hosts)
    shutil.rmtree(small_disk / "root")
