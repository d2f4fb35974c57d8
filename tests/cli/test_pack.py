"""pack and unpack: what comes back, on how many daemons ever, also by tar; and what is refused."""

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gkfs import container, manifest
from tests.cli.packs import make_tree, state
from tests.cli.workplace import Workplace

HDRCHARSET = "tar: Ignoring unknown extended header keyword 'hdrcharset'"
pytestmark = pytest.mark.usefixtures("fuse")


class Site:
    """A mounted file system of its own in *folder*."""

    def __init__(self, workplace: Workplace, folder: Path, count: int) -> None:
        self.hosts, self.mnt = folder / "hosts", folder / "mnt"
        for path in (folder, folder / "root", self.mnt):
            path.mkdir()
        workplace.ok("start", "-r", folder / "root", "-H", self.hosts, "-n", str(count))
        workplace.ok("mount", "-H", self.hosts, self.mnt)


@contextmanager
def site(workplace: Workplace, count: int, name: str = "site") -> Iterator[Site]:
    """Mounted within the block; it must have no faults at its end."""
    made = Site(workplace, workplace.folder / name, count)
    yield made
    workplace.ok("umount", made.mnt)
    workplace.ok("fsck", "-H", made.hosts)
    workplace.ok("stop", "-H", made.hosts, "--purge")


@pytest.fixture
def pack(workplace: Workplace) -> Path:
    """A pack of the sample tree, from two daemons, large files in parts; all it takes is ended."""
    folder = workplace.folder / "pack"
    with site(workplace, 2, "source") as source:
        make_tree(source.mnt)
        workplace.ok("pack", "-H", source.hosts, folder, "--split", "2")
    return folder


@pytest.mark.parametrize("count", [1, 3])
def test_everything_comes_back_on_another_number_of_daemons(workplace: Workplace, count: int) -> None:
    folder = workplace.folder / "pack"
    with site(workplace, 2, "source") as source:
        make_tree(source.mnt)
        expected = state(source.mnt)
        told = workplace.ok("pack", "-H", source.hosts, folder, "--split", "2", "--json").json
        assert state(source.mnt) == expected
    assert len(expected) == 81
    assert told["parts"] == {"large": 3, "sparse": 5}
    assert told["totals"]["files"] == 71
    assert told["subtrees"]["d"]["files"] == 68
    with site(workplace, count, "target") as target:
        workplace.ok("unpack", "-H", target.hosts, folder)
        assert state(target.mnt) == expected
        blocks = os.stat(target.mnt / "sparse").st_blocks
        assert blocks * 512 < 3 << 20  # 9 MiB, of which two chunks have data


def test_ordinary_tar_restores_it_as_the_documentation_says(workplace: Workplace) -> None:
    folder, out = workplace.folder / "pack", workplace.folder / "out"
    out.mkdir()
    text = (Path(__file__).parents[2] / "docs" / "packing.md").read_text().split("## Without gkfs")[1]
    shown = [line for line in text.split("\n## ")[0].splitlines() if line.startswith("    ")]
    commands = "\n".join([f"P={shlex.quote(str(folder))}", *shown[1:]])
    assert shown[0].startswith("    P=/")
    with site(workplace, 2, "source") as source:
        make_tree(source.mnt)
        workplace.ok("pack", "-H", source.hosts, folder, "--split", "2")
        expected = state(source.mnt, but=frozenset({"socket"}))
        done = subprocess.run(commands, shell=True, check=True, cwd=out, capture_output=True, text=True)
        said = {line for line in done.stderr.splitlines() if "implausibly old" not in line}  # it is restored, too
        assert (done.stdout, said) == ("", {HDRCHARSET})
        assert state(out) | {".": {}} == expected | {".": {}}  # putting parts together changed the top


def test_a_subtree_goes_into_another_place(workplace: Workplace) -> None:
    folder = workplace.folder / "pack"
    with site(workplace, 2) as both:
        (both.mnt / "a").mkdir()
        make_tree(both.mnt / "a")
        (both.mnt / "aside").write_bytes(b"x")
        workplace.ok("pack", both.mnt / "a", folder)
        assert json.loads((folder / "gkfs-pack.json").read_text())["subtree"] == "/a"
        workplace.ok("unpack", folder, both.mnt / "b" / "c")
        assert state(both.mnt / "b" / "c") == state(both.mnt / "a")
        assert os.listdir(both.mnt / "b") == ["c"]
        line = workplace.fails(2, "pack", both.mnt / "aside", workplace.folder / "other")
        assert line.endswith("/aside is no directory")
        line = workplace.fails(2, "pack", both.mnt / "a", both.mnt / "pack")
        assert line.endswith("/pack is in the file system that is to be packed")
        assert "/b/c is not empty, it holds /b/c/" in workplace.fails(1, "unpack", folder, both.mnt / "b" / "c")
        assert "aside is no directory" in workplace.fails(1, "unpack", folder, both.mnt / "aside" / "below")


def test_force_makes_what_is_there_what_the_pack_holds(workplace: Workplace, pack: Path) -> None:
    with site(workplace, 3, "target") as target:
        workplace.ok("unpack", "-H", target.hosts, pack)
        expected = state(target.mnt)
        (target.mnt / "large").write_bytes(b"short")
        (target.mnt / "sparse").write_bytes(b"y" * (11 << 20))
        (target.mnt / "d" / "f9").unlink()
        (target.mnt / "d" / "f9").symlink_to("elsewhere")
        (target.mnt / "d" / "f8").write_bytes(b"z" * 5000)
        (target.mnt / "first").unlink()
        (target.mnt / "pipe").unlink()
        (target.mnt / "pipe").write_bytes(b"file")
        os.setxattr(target.mnt / "d" / "f7", "user.more", b"1")
        os.removexattr(target.mnt / "d" / "f3", "user.note")
        os.chmod(target.mnt / "empty", 0o777)
        (target.mnt / "more").write_bytes(b"stays")
        workplace.ok("unpack", "-H", target.hosts, pack, "--force")
        found = state(target.mnt, but=frozenset({"more"}))
        assert found.pop(".") | {"mtime": 0} == expected.pop(".") | {"mtime": 0}
        assert found == expected
        assert (target.mnt / "more").read_bytes() == b"stays"


def test_a_pack_is_only_replaced_by_force_and_then_whole(workplace: Workplace, pack: Path) -> None:
    with site(workplace, 1, "other") as other:
        (other.mnt / "only").write_bytes(b"this")
        before = sorted(os.listdir(pack))
        line = workplace.fails(2, "pack", "-H", other.hosts, pack)
        assert line.endswith("holds a pack; --force puts another in its place")
        assert sorted(os.listdir(pack)) == before
        workplace.ok("pack", "-H", other.hosts, pack, "--force")
        assert not set(os.listdir(pack)) & set(before) - {"gkfs-pack.json"}
        workplace.ok("unpack", "-H", other.hosts, pack, "/again")
        assert os.listdir(other.mnt / "again") == ["only"]


def test_a_folder_with_something_else_in_it_is_refused(workplace: Workplace) -> None:
    workplace.start_daemons(1)
    (workplace.folder / "mine").mkdir()
    (workplace.folder / "mine" / "tree.tar").write_bytes(b"precious")
    line = workplace.fails(2, "pack", "-H", workplace.hosts, workplace.folder / "mine")
    assert line.endswith("is not empty: it holds 'tree.tar'")
    assert os.listdir(workplace.folder / "mine") == ["tree.tar"]
    assert "No such file" in workplace.fails(1, "pack", "-H", workplace.hosts, workplace.folder / "no" / "such")
    assert "/nothing: no such" in workplace.fails(
        1, "pack", "-H", workplace.hosts, "/nothing", workplace.folder / "p"
    )
    assert not (workplace.folder / "p").exists()
    workplace.ok("pack", "-H", workplace.hosts, workplace.folder / "empty")
    workplace.ok("unpack", "-H", workplace.hosts, workplace.folder / "empty")
    workplace.ok("stop", "-H", workplace.hosts)


def test_many_files_are_in_many_segments_that_all_movers_share(workplace: Workplace) -> None:
    folder, source = workplace.folder / "pack", workplace.folder / "many"
    source.mkdir()
    for number in range(2600):
        (source / f"{number}").write_bytes(b"%d" % number)
    with site(workplace, 2) as both:
        workplace.ok("stage-in", "-H", both.hosts, source, "/")
        workplace.ok("pack", "-H", both.hosts, folder, "--movers", "1")
        (data, tree) = manifest.read(folder).containers
        with (folder / f"{data.name}.index").open("rb") as index:
            index.seek(data.table_offset)
            segments = container.decode_table(index.read(), bytes.fromhex(data.digest))
        assert [segment.entries for segment in segments] == [1000, 1000, 600]
        assert tree.entries == 2
        workplace.ok("unpack", "-H", both.hosts, folder, "/again", "--movers", "3")
        subprocess.run(["diff", "-r", source, both.mnt / "again" / "many"], check=True)
