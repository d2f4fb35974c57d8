"""`gkfs stage-in` and `stage-out`: what they move and where to, what they skip, find, mend, and survive."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from gkfs import hostfile
from gkfs.errors import ExitStatus
from tests.cli.staged import MIB, make_tree, names_in, stage
from tests.cli.workplace import TIMEOUT_S, Workplace
from tests.hosts import write_hosts
from tests.mount import sample_tree
from tests.mount.trees import assert_same
from tests.rot import flip

INCOMPLETE: Final = ExitStatus.INCOMPLETE
DIFFERENT: Final = ExitStatus.DIFFERENT


@pytest.fixture(autouse=True)
def _needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: owners and devices are moved, too")


@pytest.fixture(params=[1, 3], ids=["1-daemon", "3-daemons"])
def site(request: pytest.FixtureRequest, workplace: Workplace) -> Iterator[Workplace]:
    """Daemons, whose stores are found right by fsck in the end."""
    workplace.start_daemons(request.param)
    yield workplace
    workplace.ok("fsck", "-H", workplace.hosts)
    workplace.ok("stop", "-H", workplace.hosts, "--purge")


# --- what is moved


def test_a_tree_of_all_kinds_comes_back_as_it_went(site: Workplace) -> None:
    source, out = site.folder / "source", site.folder / "out"
    sample_tree.make(source, links=True, attributes=True)
    counts = stage(site, "in", source, "/")
    assert (counts["errors"], counts["skipped"]) == ([], 0)
    stage(site, "out", "/source", out)
    assert_same(source, out / "source")
    for direction, arguments in (("in", (source, "/")), ("out", ("/source", out))):
        assert stage(site, direction, "--verify", *arguments)["differences"] == []
        counts = stage(site, direction, *arguments)
        assert (counts["files"], counts["directories"]) == (0, 0)
    assert_same(source, out / "source")


def test_holes_of_large_files_stay(pair: Workplace) -> None:
    source, out = pair.folder / "holes", pair.folder / "out"
    with source.open("wb") as file:
        file.seek(40 * MIB)
        file.write(b"data")
        file.truncate(100 * MIB)
    stage(pair, "in", source, "/")
    status = pair.ok("status", "-H", pair.hosts, "--json").json
    assert status["used_bytes"] <= MIB
    stage(pair, "out", "/holes", out)
    assert out.stat().st_blocks * 512 <= 2 * MIB
    assert out.read_bytes() == source.read_bytes()


@pytest.mark.usefixtures("fuse")
def test_what_is_staged_in_shows_on_a_mount_and_what_a_program_made_there_is_staged_out(pair: Workplace) -> None:
    source, out = make_tree(pair.folder / "source"), pair.folder / "out"
    pair.ok("mount", "-H", pair.hosts, pair.mnt)
    (pair.mnt / "here").mkdir()
    # Without -H: the file system is the one mounted there.
    pair.ok("stage-in", source, pair.mnt / "here")
    assert_same(source, pair.mnt / "here" / "source")
    shutil.copytree(pair.mnt / "here" / "source", pair.mnt / "copy", symlinks=True)
    os.truncate(pair.mnt / "copy" / "large", 12_345_678)
    done = pair.gkfs("stage-out", "copy/", out, cwd=pair.mnt)
    assert (done.status, done.err) == (0, "")
    assert_same(pair.mnt / "copy", out)
    done = pair.gkfs("stage-in", source / "large", ".", cwd=pair.mnt / "here")
    assert (done.status, (pair.mnt / "here" / "large").stat().st_size) == (0, 66 * MIB + 3)
    pair.ok("umount", pair.mnt)


# --- where it goes


def test_source_and_destination_mean_what_they_do_to_rsync(pair: Workplace) -> None:
    top = pair.folder / "s"
    (top / "d").mkdir(parents=True)
    (top / "d" / "f").write_text("f")
    (top / "g").write_text("g")
    (top / "link").symlink_to("d")
    cases: tuple[tuple[tuple[str, ...], list[str]], ...] = (
        (("d", "/a"), ["d", "d/f"]),
        (("d/", "/b"), ["f"]),
        (("d", "/c/"), ["d", "d/f"]),
        (("g", "/e/"), ["g"]),
        (("d", "g", "/h"), ["d", "d/f", "g"]),
        (("d/", "g", "/i/j"), ["f", "g"]),
        (("link", "/k/"), ["link"]),
        (("link/", "/l"), ["f"]),
        (("d/.", "/m"), ["f"]),
    )
    for (*sources, target), expected in cases:
        stage(pair, "in", *[f"{top}/{source}" for source in sources], target)
        assert names_in(pair, target) == expected, target
    stage(pair, "in", top / "g", "/single")
    stage(pair, "in", top / "g", "/a/d/renamed")
    assert "single" in names_in(pair)
    assert names_in(pair, "/a") == ["d", "d/f", "d/renamed"]
    for target in ("", "sub/", "new-name"):
        stage(pair, "out", "/single", f"{pair.folder}/o/{target}")
    assert sorted(path.name for path in (pair.folder / "o").rglob("*")) == ["new-name", "single", "single", "sub"]


def test_a_path_below_the_mountdir_is_in_the_namespace_and_a_relative_one_begins_at_its_root(
    pair: Workplace,
) -> None:
    source = pair.folder / "f"
    source.write_text("f")
    variables = {"GKFS_HOSTFILE": str(pair.hosts), "GKFS_MOUNTDIR": str(pair.mnt)}
    for target in (f"{pair.mnt}/x/", "y/", "/z/", "./w/../v/"):
        done = pair.gkfs("stage-in", source, target, env=variables)
        assert (done.status, done.err) == (0, "")
    assert names_in(pair) == ["v", "v/f", "x", "x/f", "y", "y/f", "z", "z/f"]


def test_a_symlink_in_the_destination_is_followed(pair: Workplace) -> None:
    top = pair.folder / "s"
    (top / "real").mkdir(parents=True)
    (top / "link").symlink_to("real")
    stage(pair, "in", f"{top}/", "/")
    (top / "f").write_text("f")
    stage(pair, "in", top / "f", "/link/")
    assert names_in(pair) == ["link", "real", "real/f"]


# --- a second call


def test_a_second_call_moves_what_has_changed_and_nothing_else(pair: Workplace) -> None:
    source, out = make_tree(pair.folder / "source"), pair.folder / "out"
    stage(pair, "in", source, "/")
    stage(pair, "out", "/source", out)
    (source / "folder-1" / "inner-1" / "file-1").write_text("changed")
    (source / "folder-1" / "inner-1" / "new").write_text("new")
    (source / "folder-2" / "inner-2").chmod(0o700)
    (source / "folder-0" / "inner-0" / "file-0").chmod(0o600)
    os.setxattr(source / "folder-0", "user.new", b"1")
    with (source / "large").open("r+b") as file:
        file.seek(30 * MIB)
        file.write(b"changed")
    for direction, arguments in (("in", (source, "/")), ("out", ("/source", out))):
        counts = stage(pair, direction, *arguments)
        assert counts["files"] == 3
    assert_same(source, out / "source")


@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_flipped_byte_is_found_and_mended(pair: Workplace, direction: str) -> None:
    source, out = make_tree(pair.folder / "source", 5), pair.folder / "out"
    (source / "small").write_bytes(b"x" * 20_000)  # of one chunk, not in its record
    stage(pair, "in", source, "/")
    stage(pair, "out", "/source", out)
    if direction == "in":
        chunks = {path.stat().st_size: path for path in pair.root.rglob("*.0000000?")}
        flipped = [chunks[20_000], chunks[MIB]]
    else:
        flipped = [out / "source" / "large", out / "source" / "folder-3" / "inner-0" / "file-3"]
    for path in flipped:
        status = path.stat()
        flip(path, 0)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    arguments = ("-H", pair.hosts, *((source, "/") if direction == "in" else ("/source", out)))
    assert stage(pair, direction, *arguments)["files"] == 0, "sizes and times are right"
    done = pair.gkfs(f"stage-{direction}", "--verify", *arguments)
    assert done.status == DIFFERENT
    assert done.err.count("other contents") == 2
    assert stage(pair, direction, "--checksum", *arguments)["files"] == 2
    assert stage(pair, direction, "--verify", *arguments)["differences"] == []


def test_verify_names_what_is_missing_and_what_has_other_attributes(pair: Workplace) -> None:
    source = pair.folder / "source"
    (source / "sub").mkdir(parents=True)
    for name in ("same", "mode", "longer", "later"):
        (source / name).write_text(name)
    stage(pair, "in", source, "/")
    (source / "mode").chmod(0o600)
    (source / "missing").write_text("missing")
    (source / "missing-folder").mkdir()
    (source / "longer").write_text("longer than it was")
    os.utime(source / "later", ns=(1, 1))
    done = pair.gkfs("stage-in", "-H", pair.hosts, "--verify", source, "/")
    assert done.status == DIFFERENT
    for fact in (
        "/source/missing: is missing",
        "/source/missing-folder: is missing",
        "/source/mode: other permissions",
        "/source/longer: 6 bytes, expected 18",
        "/source/later: another modification time",
    ):
        assert f"differs: {fact}" in done.err
    assert "same" not in done.err


# --- what goes wrong


def test_what_cannot_be_moved_is_named_and_the_rest_is_moved(pair: Workplace) -> None:
    source, log = pair.folder / "source", pair.folder / "log"
    (source / "a").mkdir(parents=True)
    for number in range(30):
        (source / "a" / f"bad-{number}").mkdir(parents=True)
        (source / f"good-{number}").write_text("good")
    stage(pair, "in", source, "/")
    for number in range(30):
        (source / "a" / f"bad-{number}").rmdir()
        (source / "a" / f"bad-{number}").write_text("a file where there is a directory")
        (source / f"good-{number}").write_text("better")
    done = pair.gkfs("stage-in", "-H", pair.hosts, "--log", log, source, "/")
    assert done.status == INCOMPLETE
    lines = done.err.splitlines()
    assert len(lines) == 22
    assert lines[-2] == f"gkfs: ... and 10 more; all are in {log}"
    assert lines[-1] == "gkfs: 30 entries could not be moved"
    assert all("/source/a/bad-" in line and "irectory" in line for line in lines[:20])
    assert sum("/source/a/bad-" in line for line in log.read_text().splitlines()) == 30
    assert "30 files moved" in done.out


def test_a_source_that_is_not_there_does_not_keep_the_others_from_being_moved(pair: Workplace) -> None:
    source = pair.folder / "f"
    source.write_text("f")
    done = pair.gkfs("stage-in", "-H", pair.hosts, pair.folder / "nothing", source, "/x")
    assert (done.status, names_in(pair)) == (INCOMPLETE, ["x", "x/f"])
    assert "No such file or directory" in done.err
    done = pair.gkfs("stage-out", "-H", pair.hosts, "/nothing", "/x/f", pair.folder / "out")
    assert (done.status, os.listdir(pair.folder / "out")) == (INCOMPLETE, ["f"])


def test_a_destination_that_is_a_file_is_refused(pair: Workplace) -> None:
    source = pair.folder / "d"
    source.mkdir()
    (source / "f").write_text("f")
    stage(pair, "in", source / "f", "/")
    done = pair.gkfs("stage-in", "-H", pair.hosts, source, "/f")
    assert done.status == INCOMPLETE
    assert "Not a directory" in done.err
    done = pair.gkfs("stage-out", "-H", pair.hosts, "/", source / "f")
    assert done.status == INCOMPLETE
    assert "Not a directory" in done.err


def test_wrong_use_is_one_line(workplace: Workplace) -> None:
    source = workplace.folder / "f"
    source.write_text("f")
    workplace.fails(2, "stage-in", "-H", workplace.hosts, source)
    workplace.fails(2, "stage-out", "-H", workplace.hosts, "", source)
    workplace.fails(5, "stage-in", "-H", workplace.hosts, source, "/")
    fsid = workplace.start_daemons()["fsid"]
    hosts = hostfile.read(workplace.hosts)
    workplace.ok("stop", "-H", workplace.hosts, "--purge")
    write_hosts(workplace.hosts, fsid, 1, *hosts.daemons.values())
    workplace.fails(6, "stage-in", "-H", workplace.hosts, source, "/")


def test_without_a_terminal_progress_is_told_in_lines(pair: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_tree(pair.folder / "source")
    script = "import sys; from gkfs.commands import progress; progress._LINE_EVERY_S = 0.0; "
    script += "from gkfs.cli import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", script, "stage-in", "-H", str(pair.hosts), str(source), "/"],
        capture_output=True,
        text=True,
        env=pair.environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=TIMEOUT_S,
        check=True,
    )
    lines = done.stderr.splitlines()
    assert lines
    assert all(line.startswith("stage-in: ") and " files, " in line for line in lines)
    assert "61 of 61 files" in lines[-1]


def test_a_file_with_very_many_names_and_a_folder_with_very_many_folders_fit_the_messages(pair: Workplace) -> None:
    source, out = pair.folder / "source", pair.folder / "out"
    (source / "names").mkdir(parents=True)
    (source / "names" / "0").write_text("one")
    for number in range(1, 700):
        os.link(source / "names" / "0", source / "names" / str(number))
    for number in range(600):
        (source / f"{number}-{'x' * 200}").mkdir()
    stage(pair, "in", source, "/")
    stage(pair, "out", "/source", out)
    assert_same(source, out / "source")
    assert stage(pair, "in", source, "/")["files"] == stage(pair, "out", "/source", out)["files"] == 0
