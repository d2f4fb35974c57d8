"""Attributes, times and link counts that one node changes, as another sees them."""

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.calls import fails, noise, opened
from tests.mount.conftest import Place
from tests.mount.file_system import wait_until
from tests.mount.test_rename import EXCHANGE, renameat2


def test_attributes_agree(place: Place) -> None:
    path, same = place.here / "file", place.there / "file"
    path.write_bytes(b"x")
    for change in (
        lambda: os.chmod(path, 0o640),
        lambda: os.chown(same, 7, 8),
        lambda: os.utime(path, ns=(1, 2)),
        lambda: same.write_bytes(b"longer"),
        lambda: os.truncate(path, 3),
        lambda: os.utime(same),
    ):
        change()
        one, other = path.stat(), same.stat()
        for field in (
            "st_mode",
            "st_ino",
            "st_nlink",
            "st_uid",
            "st_gid",
            "st_size",
            "st_mtime_ns",
            "st_ctime_ns",
        ):
            assert getattr(one, field) == getattr(other, field), field


def test_mtime_set_after_writing_stays(place: Place) -> None:
    """As tar, cp -p and rsync do: write, set the time through the descriptor, close."""
    for number in range(20):
        with opened(place.here / f"{number}", os.O_WRONLY | os.O_CREAT) as file:
            os.write(file, noise(1000 * number + 1))
            os.utime(file, ns=(10**18, 10**18 + number))
        assert (place.there / f"{number}").stat().st_mtime_ns == 10**18 + number


def test_directory_times_and_link_counts_agree_soon(place: Place) -> None:
    before_ns = place.there.stat().st_mtime_ns
    for number in range(10):
        (place.here / f"a{number}").mkdir()
        (place.there / f"b{number}").mkdir()
    (place.there / "b3").rmdir()
    (place.here / "b4").rename(place.here / "a1" / "b4")

    def facts(view: Path) -> tuple[int, int, int]:
        status = view.stat()
        return status.st_nlink, (view / "a1").stat().st_nlink, status.st_mtime_ns

    wait_until(
        lambda: facts(place.here) == facts(place.there) and facts(place.here)[:2] == (2 + 18, 3),
        "both nodes agree",
    )
    assert facts(place.there)[2] > before_ns


def test_extended_attributes_are_there_at_once(place: Place) -> None:
    (place.here / "file").write_bytes(b"content")
    (place.here / "folder").mkdir()
    for number in range(10):
        here, there = (place.here, place.there) if number % 2 else (place.there, place.here)
        for name in ("file", "folder"):
            value = noise(100 * number, number)
            os.setxattr(here / name, "user.changing", value)
            assert os.getxattr(there / name, "user.changing") == value
            os.setxattr(there / name, f"trusted.{number}", b"")
            assert f"trusted.{number}" in os.listxattr(here / name)
            with fails(errno.EEXIST):
                os.setxattr(there / name, "user.changing", b"", os.XATTR_CREATE)
            os.removexattr(there / name, "user.changing")
            with fails(errno.ENODATA):
                os.getxattr(here / name, "user.changing")
            with fails(errno.ENODATA):
                os.setxattr(here / name, "user.changing", b"", os.XATTR_REPLACE)
    assert sorted(os.listxattr(place.here / "folder")) == sorted(os.listxattr(place.there / "file"))


def test_extended_attributes_stay_when_another_node_gives_the_file_other_names(place: Place) -> None:
    (place.here / "file").write_bytes(b"content")
    with opened(place.there / "file", os.O_RDWR) as file:
        os.setxattr(file, "user.one", b"1")
        os.link(place.here / "file", place.here / "second")
        os.setxattr(file, "user.two", b"2")
        (place.here / "file").unlink()
        os.setxattr(file, "user.three", b"3")
        (place.here / "second").rename(place.here / "third")
        assert sorted(os.listxattr(file)) == ["user.one", "user.three", "user.two"]
    assert sorted(os.listxattr(place.here / "third")) == ["user.one", "user.three", "user.two"]


@pytest.mark.parametrize(
    ("change", "links"),
    [
        (lambda folder: os.link(folder / "file", folder / "third"), 3),
        (lambda folder: os.unlink(folder / "second"), 1),
        (lambda folder: os.rename(folder / "other", folder / "second"), 1),
        (lambda folder: os.rename(folder / "second", folder / "third"), 2),
        (lambda folder: renameat2(folder / "other", folder / "second", EXCHANGE), 2),
    ],
    ids=["link", "unlink", "replace", "rename", "exchange"],
)
def test_link_count_and_ctime_are_right_at_once(change: Callable[[Path], None], links: int, place: Place) -> None:
    (place.here / "file").write_bytes(b"file")
    os.link(place.here / "file", place.here / "second")
    (place.here / "other").write_bytes(b"other")
    with opened(place.there / "file", os.O_RDONLY) as file:
        before = os.fstat(file)
        assert before.st_nlink == 2
        time.sleep(0.005)
        change(place.here)
        for after in ((place.there / "file").stat(), os.fstat(file), (place.here / "file").stat()):
            assert after.st_nlink == links
            assert after.st_mtime_ns == before.st_mtime_ns
            if links != 2:  # else the count is what it was; whether ctime moves is up to the file system (POSIX)
                assert after.st_ctime_ns > before.st_ctime_ns


def test_a_file_of_one_name_has_a_new_ctime_when_it_is_renamed(place: Place) -> None:
    for number in range(5):
        (place.here / f"{number}").touch()
        before_ns = (place.there / f"{number}").stat().st_ctime_ns
        time.sleep(0.005)
        (place.here / f"{number}").rename(place.here / f"new-{number}")
        assert (place.there / f"new-{number}").stat().st_ctime_ns > before_ns


def test_attributes_set_through_a_handle_are_there_at_once(place: Place) -> None:
    with opened(place.here / "file", os.O_RDWR | os.O_CREAT) as file:
        os.fchmod(file, 0o604)
        os.fchown(file, 21, 22)
        os.utime(file, ns=(31, 32))
        os.setxattr(file, "user.handle", b"set")
        os.ftruncate(file, 4321)
        found = (place.there / "file").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_size) == (0o604, 21, 22, 4321)
    assert found.st_atime_ns == 31
    assert os.getxattr(place.there / "file", "user.handle") == b"set"
