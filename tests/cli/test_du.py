"""du: what it shows of a mount and of a hostfile, and how it fails."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.workplace import Workplace


def fill(mnt: Path) -> None:
    for number in range(10):
        folder = mnt / f"d{number % 2}" / "inner"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(b"x" * 1000 * number)
    os.symlink("nowhere", mnt / "d0" / "link")


@pytest.mark.usefixtures("fuse")
def test_it_counts_what_du_and_find_count(workplace: Workplace) -> None:
    workplace.start_daemons(2)
    workplace.ok("mount", "-H", workplace.hosts, workplace.mnt)
    fill(workplace.mnt)
    (told,) = workplace.ok("du", workplace.mnt, "-d", "9", "--json").json["subtrees"]
    by_path = {directory["path"]: directory for directory in told["directories"]}
    listed = subprocess.check_output(
        ["find", workplace.mnt, "-type", "d", "-printf", "/%P\n"], text=True
    ).splitlines()
    assert sorted(by_path) == sorted(listed)
    for path, counted in by_path.items():
        place = f"{workplace.mnt}/{path}"
        found = subprocess.check_output(["find", place, "-printf", "%y %s\n"], text=True).splitlines()
        files = [int(line[2:]) for line in found if line.startswith("f")]
        assert (counted["files"], counted["bytes"]) == (len(files), sum(files))
        assert counted["directories"] == sum(line.startswith("d") for line in found)
        assert counted["symlinks"] == sum(line.startswith("l") for line in found)
    workplace.ok("umount", workplace.mnt)
    workplace.ok("stop", "-H", workplace.hosts)


@pytest.mark.usefixtures("fuse")
def test_a_path_is_a_place_in_a_mount_or_within_the_hostfiles_file_system(workplace: Workplace) -> None:
    workplace.start_daemons(1)
    workplace.ok("mount", "-H", workplace.hosts, workplace.mnt)
    fill(workplace.mnt)
    expected = workplace.ok("du", "-H", workplace.hosts, "/d1").out
    assert expected.splitlines()[1].split() == ["24.4", "KiB", "5", "2", "0", "/d1"]
    assert workplace.ok("du", workplace.mnt / "d1").out == expected
    assert workplace.ok("du", "-H", workplace.hosts, workplace.mnt / "d1").out == expected
    assert workplace.gkfs("du", "d1", cwd=workplace.mnt).out == expected
    assert workplace.gkfs("du", cwd=workplace.mnt / "d1").out == expected
    (workplace.folder / "link").symlink_to(workplace.mnt)
    assert workplace.ok("du", workplace.folder / "link" / "d1").out == expected
    shown = workplace.ok("du", "-H", workplace.hosts, "/d1", "--histogram").out
    assert "  4.0 KiB      2  ####" in shown
    workplace.ok("umount", workplace.mnt)
    workplace.ok("stop", "-H", workplace.hosts)


def test_what_cannot_be_counted_is_one_line(workplace: Workplace) -> None:
    assert "name the hostfile" in workplace.fails(2, "du", "/nowhere")
    assert "hostfile" in workplace.fails(5, "du", "-H", workplace.hosts, "/")
    workplace.start_daemons(2)
    assert "/nothing: no such file" in workplace.fails(1, "du", "-H", workplace.hosts, "/nothing")
    assert "/relative: no such file" in workplace.fails(1, "du", "-H", workplace.hosts, "relative")
    workplace.ok("stop", "-H", workplace.hosts)
    workplace.fails(5, "du", "-H", workplace.hosts, "/")
