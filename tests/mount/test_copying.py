"""Trees that are copied, packed, transferred and removed by everyday programs are the same on a mount."""

import os
import shutil
from pathlib import Path
from typing import Final

import pytest

from tests.mount import sample_tree, trees
from tests.mount.conftest import Both, Place
from tests.mount.programs import need, run
from tests.mount.trees import assert_same


def test_cp_a_keeps_everything(sample: Path, place: Place, tmp_path: Path) -> None:
    need("cp")
    run("cp", "-a", sample, place.here / "copy")
    assert_same(sample, place.here / "copy")
    run("cp", "-a", place.here / "copy", place.here / "within")
    assert_same(sample, place.here / "within")
    run("cp", "-a", place.there / "within", tmp_path / "back")
    assert_same(sample, tmp_path / "back")


@pytest.mark.parametrize("option", ["--sparse=always", "--sparse=never", "--reflink=auto"])
def test_cp_with_holes_copies_contents(option: str, sample: Path, place: Place) -> None:
    need("cp")
    source = sample / "contents" / "hole"
    run("cp", option, source, place.here / "in")
    run("cp", option, place.here / "in", place.here / "within")
    assert trees.digest(place.here / "within") == trees.digest(source)


def test_tar_packs_and_unpacks_everything(sample: Path, place: Place) -> None:
    need("tar")
    run("tar", "--format=posix", "-cf", place.here / "in.tar", "-C", sample, ".")
    (place.here / "unpacked").mkdir()
    run("tar", "-xpf", place.here / "in.tar", "-C", place.here / "unpacked")
    assert_same(sample, place.here / "unpacked")
    run("tar", "--compare", "-f", place.here / "in.tar", "-C", place.here / "unpacked")
    run("tar", "--format=posix", "-cf", place.here / "again.tar", "-C", place.here / "unpacked", ".")
    run("tar", "--compare", "-f", place.here / "again.tar", "-C", sample)


def test_rsync_a_transfers_everything_once(sample: Path, place: Place) -> None:
    need("rsync")
    target = f"{place.here}/copy/"
    run("rsync", "-a", "--itemize-changes", f"{sample}/", target)
    assert_same(sample, place.here / "copy")
    assert run("rsync", "-a", "--itemize-changes", f"{sample}/", target) == ""
    assert run("rsync", "-a", "--checksum", "--itemize-changes", f"{sample}/", target) == ""
    assert (
        run("rsync", "-a", "--checksum", "--itemize-changes", "--dry-run", f"{place.there}/copy/", f"{sample}/")
        == ""
    )


@pytest.mark.parametrize("options", [(), ("--inplace", "--no-whole-file")], ids=["replaced", "in-place"])
def test_rsync_brings_a_changed_file_up_to_date(options: tuple[str, ...], sample: Path, both: Both) -> None:
    need("rsync")
    name = "3500000-bytes"
    for folder in both:
        shutil.copy(sample / "contents" / name, folder)
    with open(both.local / name, "r+b") as file:
        file.seek(1_234_567)
        file.write(b"changed")
        file.truncate(3_200_000)
    run("rsync", "-a", *options, f"{both.local}/", f"{both.mounted}/")
    assert_same(both.local / name, both.mounted / name)
    assert os.listdir(both.mounted) == [name]


# --- hard links and extended attributes ------------------------------------------------------------------


@pytest.fixture(scope="session")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample with hard links and extended attributes, on the local disk, not to be changed."""
    root = tmp_path_factory.mktemp("linked") / "tree"
    try:
        os.setxattr(root.parent, "user.possible", b"")
    except OSError as error:
        pytest.skip(f"no extended attributes on the local disk: {error}")
    sample_tree.make(root, links=True, attributes=True)
    return root


def test_cp_keeps_links_and_attributes(linked: Path, anywhere: Place, tmp_path: Path) -> None:
    need("cp")
    trip = [linked, anywhere.here / "in", anywhere.there / "across", tmp_path / "back"]
    # -a alone says nothing when attributes cannot be kept.
    for source, target, options in zip(trip, trip[1:], (["-a"], ["-a", "--preserve=all"], ["-a"]), strict=False):
        run("cp", *options, source, target)
        assert_same(linked, target)
    assert_same(linked, anywhere.here / "across")


def test_cp_al_copies_names_only(sample: Path, anywhere: Place) -> None:
    """And removing one of the trees leaves the other whole."""
    need("cp", "rm")
    first, second = anywhere.here / "first", anywhere.here / "second"
    run("cp", "-a", sample, first)
    run("cp", "-al", first, second)
    assert_same(sample, second)
    files = trees.statuses(first)
    assert {status.st_nlink for status in files.values()} == {2}
    inodes = {name: status.st_ino for name, status in files.items()}
    assert {name: status.st_ino for name, status in trees.statuses(anywhere.there / "second").items()} == inodes
    run("rm", "-rf", first)
    assert not (anywhere.there / "first").exists()
    assert_same(sample, anywhere.there / "second")
    assert {status.st_nlink for status in trees.statuses(second).values()} == {1}


_ATTRIBUTES: Final = ("--xattrs", "--xattrs-include=*")


def test_tar_packs_and_unpacks_links_and_attributes(linked: Path, place: Place, tmp_path: Path) -> None:
    need("tar")
    pack = ("tar", *_ATTRIBUTES, "--format=posix", "--sort=name", "-cpf")
    run(*pack, place.here / "in.tar", "-C", linked, ".")
    unpacked = [tmp_path / "unpacked", place.here / "unpacked"]
    for folder in unpacked:
        folder.mkdir()
        run("tar", *_ATTRIBUTES, "-xpf", place.here / "in.tar", "-C", folder)
    # Not with the sample: tar makes two of a fifo with two names, wherever it unpacks.
    assert_same(unpacked[0], unpacked[1])
    assert len(trees.links(unpacked[1])) >= len(trees.links(linked)) - 2
    assert_same(unpacked[0], place.there / "unpacked")
    run("tar", *_ATTRIBUTES, "--compare", "-f", place.here / "in.tar", "-C", place.there / "unpacked")
    run(*pack, place.here / "again.tar", "-C", place.there / "unpacked", ".")
    run("tar", *_ATTRIBUTES, "--compare", "-f", place.there / "again.tar", "-C", unpacked[0])


# Else it takes times of the same second for equal.
_RSYNC: Final = ("rsync", "-aHAX", "--modify-window=-1")


def test_rsync_transfers_links_and_attributes_between_disk_and_nodes(
    linked: Path, anywhere: Place, tmp_path: Path
) -> None:
    need("rsync")
    trip = [linked, anywhere.here / "in", anywhere.there / "across", tmp_path / "back"]
    for source, target, options in zip(trip, trip[1:], ([], ["--sparse"], []), strict=False):
        run(*_RSYNC, *options, f"{source}/", f"{target}/")
        assert_same(linked, target)
        again = ("--dry-run", "--checksum", "--delete", "--itemize-changes")
        assert run(*_RSYNC, *again, f"{source}/", f"{target}/") == ""
    assert_same(linked, anywhere.here / "across")


def test_rsync_in_place_changes_all_names_of_a_file(anywhere: Place) -> None:
    need("rsync")
    source, target = anywhere.here / "source", anywhere.here / "target"
    source.mkdir()
    (source / "first").write_bytes(b"a" * 3_000_000)
    os.link(source / "first", source / "second")
    run(*_RSYNC, f"{source}/", f"{target}/")
    before = (target / "first").stat()
    assert before.st_nlink == 2
    with open(source / "second", "r+b") as file:
        file.seek(2_000_000)
        file.write(b"changed")
    os.setxattr(source / "second", "user.state", b"changed")
    run(*_RSYNC, "--inplace", "--no-whole-file", f"{source}/", f"{target}/")
    assert_same(source, target)
    after = (anywhere.there / "target" / "first").stat()
    assert (after.st_ino, after.st_nlink) == (before.st_ino, 2)
    assert sorted(os.listdir(anywhere.there / "target")) == ["first", "second"]


def test_rsync_link_dest_shares_what_did_not_change(sample: Path, anywhere: Place, tmp_path: Path) -> None:
    need("rsync", "cp")
    now, days = tmp_path / "now", [anywhere.here / "monday", anywhere.here / "tuesday"]
    shutil.copytree(sample / "sources", now)
    run(*_RSYNC, f"{now}/", f"{days[0]}/")
    shutil.copytree(now, tmp_path / "yesterday")
    (now / "json" / "decoder.py").write_text("changed")
    (now / "json" / "encoder.py").unlink()
    (now / "new").write_text("new")
    run(*_RSYNC, "--link-dest=../monday", f"{now}/", f"{days[1]}/")
    assert_same(now, anywhere.there / "tuesday")
    assert_same(tmp_path / "yesterday", anywhere.there / "monday")
    for path in now.rglob("*.py"):
        name = path.relative_to(now)
        is_changed = name == Path("json/decoder.py")
        assert (days[0] / name).samefile(days[1] / name) is not is_changed
        assert (days[1] / name).stat().st_nlink == (1 if is_changed else 2)
