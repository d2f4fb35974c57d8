"""Removal and rename, also of what is open or has entries.

On the local disk too, which shows that the expectation is Linux's own.
"""

import ctypes
import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import Final

import pytest

from tests.mount import trees
from tests.mount.calls import MIB, fails, noise, opened
from tests.mount.conftest import Place

NOREPLACE: Final = 1
EXCHANGE: Final = 2


def test_an_unlinked_file_lives_until_it_is_closed(anywhere: Place) -> None:
    path = anywhere.here / "file"
    with opened(path, os.O_RDWR | os.O_CREAT) as file:
        os.write(file, noise(2 * MIB))
        path.unlink()
        assert os.listdir(anywhere.here) == []
        assert os.fstat(file).st_nlink == 0
        path.write_bytes(b"another file of the same name")
        os.pwrite(file, b"tail", 3 * MIB)
        os.fchmod(file, 0o600)
        os.ftruncate(file, 3 * MIB + 2)
        os.fsync(file)
        assert os.pread(file, 4 * MIB, 0) == noise(2 * MIB) + bytes(MIB) + b"ta"
        assert stat.S_IMODE(os.fstat(file).st_mode) == 0o600
    assert path.read_bytes() == b"another file of the same name"


def test_a_file_replaced_by_rename_lives_until_it_is_closed(anywhere: Place) -> None:
    (anywhere.here / "old").write_bytes(b"old")
    (anywhere.here / "new").write_bytes(b"new")
    with opened(anywhere.here / "old", os.O_RDWR) as file:
        os.rename(anywhere.here / "new", anywhere.here / "old")
        os.pwrite(file, b"er", 3)
        assert os.pread(file, 10, 0) == b"older"
        assert os.fstat(file).st_nlink == 0
    assert (anywhere.there / "old").read_bytes() == b"new"
    assert os.listdir(anywhere.there) == ["old"]


def test_temporary_files_without_names_work(anywhere: Place) -> None:
    with tempfile.TemporaryFile(dir=anywhere.here) as file:
        file.write(b"nobody sees it")
        file.seek(0)
        assert file.read() == b"nobody sees it"
    assert os.listdir(anywhere.here) == []


def test_rename_of_a_file_keeps_it(anywhere: Place) -> None:
    (anywhere.here / "folder").mkdir()
    (anywhere.here / "a").write_bytes(noise(MIB + 1))
    number = (anywhere.here / "a").stat().st_ino
    os.utime(anywhere.here / "a", ns=(1_000_000_001, 2_000_000_002))
    with opened(anywhere.here / "a", os.O_RDWR) as file:
        os.rename(anywhere.here / "a", anywhere.here / "folder" / "b")
        assert os.fstat(file).st_mtime_ns == 2_000_000_002
        os.pwrite(file, b"!", MIB)
    assert os.listdir(anywhere.there) == ["folder"]
    assert (anywhere.there / "folder" / "b").stat().st_ino == number
    assert (anywhere.there / "folder" / "b").read_bytes() == noise(MIB + 1)[:MIB] + b"!"


def test_rename_of_a_directory_moves_everything_below(anywhere: Place) -> None:
    for folder in ("old/x/y", "old/z", "target"):
        (anywhere.here / folder).mkdir(parents=True)
    for number in range(40):
        (anywhere.here / "old" / "x" / f"{number}").write_text(str(number))
    (anywhere.here / "old" / "link").symlink_to("x")
    with opened(anywhere.here / "old" / "x" / "7", os.O_RDWR) as file:
        os.rename(anywhere.here / "old", anywhere.here / "target")  # an empty directory is replaced
        os.pwrite(file, b"seven", 0)
        with fails(errno.ENOENT):
            os.stat(anywhere.there / "old" / "x")
    assert sorted(os.listdir(anywhere.there / "target")) == ["link", "x", "z"]
    assert sorted(os.listdir(anywhere.there / "target" / "link")) == sorted(["y", *map(str, range(40))])
    assert (anywhere.there / "target" / "x" / "7").read_text() == "seven"
    assert (anywhere.here / "target" / "x" / "39").read_text() == "39"
    assert (anywhere.here / "target").stat().st_nlink == 4
    assert anywhere.here.stat().st_nlink == 3


def test_rename_fails_as_linux_does(anywhere: Place) -> None:
    here = anywhere.here
    for folder in ("empty", "full/inner", "full/other"):
        (here / folder).mkdir(parents=True)
    (here / "file").write_bytes(b"f")
    for source, target, number in [
        ("missing", "x", errno.ENOENT),
        ("file", "missing/x", errno.ENOENT),
        ("file", "empty", errno.EISDIR),
        ("empty", "file", errno.ENOTDIR),
        ("empty", "full", errno.ENOTEMPTY),
        ("full", "full/inner/x", errno.EINVAL),
        ("full", "full/x", errno.EINVAL),
        ("file/x", "y", errno.ENOTDIR),
        ("file", "file/x", errno.ENOTDIR),
        ("full/inner", "full", errno.ENOTEMPTY),
        ("empty", "empty/.", errno.EBUSY),
    ]:
        with fails(number):
            os.rename(here / source, f"{here}/{target}")
    assert sorted(os.listdir(anywhere.there)) == ["empty", "file", "full"]
    os.rename(here / "file", here / "file")
    os.rename(here / "full", here / "full")
    assert (here / "file").read_bytes() == b"f"
    assert sorted(os.listdir(here / "full")) == ["inner", "other"]


def test_a_refused_rename_onto_a_directory_harms_nothing_below(anywhere: Place) -> None:
    (anywhere.here / "source" / "inner").mkdir(parents=True)
    (anywhere.here / "target" / "only").mkdir(parents=True)
    names = [f"{number}" for number in range(30)]
    for name in names:
        (anywhere.here / "target" / "only" / name).write_text(name)
        (anywhere.here / "source" / "inner" / name).write_text(name)
    for _ in range(2):
        with fails(errno.ENOTEMPTY):
            os.rename(anywhere.here / "source", anywhere.here / "target")
    for view in (anywhere.here, anywhere.there):
        for folder in ("source/inner", "target/only"):
            assert sorted(os.listdir(view / folder)) == sorted(names)
            assert [(view / folder / name).read_text() for name in names] == names


def renameat2(source: Path, target: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(source), -100, os.fsencode(target), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def test_rename_without_replacing(anywhere: Place) -> None:
    (anywhere.here / "a").write_bytes(b"a")
    (anywhere.here / "b").write_bytes(b"b")
    with fails(errno.EEXIST):
        renameat2(anywhere.here / "a", anywhere.here / "b", NOREPLACE)
    renameat2(anywhere.here / "a", anywhere.here / "c", NOREPLACE)
    assert {name: (anywhere.there / name).read_bytes() for name in os.listdir(anywhere.there)} == {
        "b": b"b",
        "c": b"a",
    }


@pytest.mark.parametrize("kinds", ["file file", "file folder", "folder file", "folder folder"])
def test_exchanged_names_lead_to_each_others_contents(kinds: str, anywhere: Place) -> None:
    for name, kind in zip(("a", "b"), kinds.split(), strict=True):
        path = anywhere.here / name
        if kind == "file":
            path.write_text(name)
        else:
            (path / "inner" / "deep").mkdir(parents=True)
            for number in range(10):
                (path / "inner" / f"{name}{number}").write_text(name)
    before = {name: trees.facts(anywhere.here / name) for name in ("a", "b")}
    inodes = [(anywhere.here / name).stat().st_ino for name in ("a", "b")]
    with opened(anywhere.there / "a", os.O_RDONLY):
        renameat2(anywhere.here / "a", anywhere.here / "b", EXCHANGE)
        for place in (anywhere.there, anywhere.here):
            assert {name: trees.facts(place / name) for name in ("b", "a")} == {"b": before["a"], "a": before["b"]}
            assert [(place / name).stat().st_ino for name in ("b", "a")] == inodes


def test_a_directory_is_not_exchanged_with_what_is_in_it(anywhere: Place) -> None:
    (anywhere.here / "a" / "b").mkdir(parents=True)
    (anywhere.here / "a" / "b" / "c").write_text("c")
    for one, other in (("a", "a/b"), ("a/b", "a"), ("a/b/c", "a"), ("a", "a/b/c")):
        with fails(errno.EINVAL):
            renameat2(anywhere.here / one, anywhere.here / other, EXCHANGE)
    with fails(errno.ENOENT):
        renameat2(anywhere.here / "a", anywhere.here / "missing", EXCHANGE)


def test_a_hard_link_is_another_name_of_the_file(anywhere: Place) -> None:
    (anywhere.here / "a").write_bytes(b"a")
    os.link(anywhere.here / "a", anywhere.here / "b")
    assert (anywhere.there / "b").stat().st_nlink == 2
    assert (anywhere.there / "b").stat().st_ino == (anywhere.here / "a").stat().st_ino
    (anywhere.here / "a").unlink()
    assert (anywhere.there / "b").read_bytes() == b"a"
    assert (anywhere.there / "b").stat().st_nlink == 1
