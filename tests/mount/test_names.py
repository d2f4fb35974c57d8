"""Names: odd and long ones, listings, removal while open, and the errors of calls that take paths.

On the local disk too, which shows that the expectation is Linux's own.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.calls import fails, opened
from tests.mount.conftest import Place
from tests.mount.sample_tree import LONGEST_NAME, ODD_NAMES


def test_names_are_any_bytes(anywhere: Place) -> None:
    folder = os.fsencode(anywhere.here)
    for name in ODD_NAMES:
        with opened(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            os.write(file, name)
    there = os.fsencode(anywhere.there)
    assert sorted(os.listdir(there)) == sorted(ODD_NAMES)
    for name in ODD_NAMES:
        assert Path(os.fsdecode(os.path.join(there, name))).read_bytes() == name
        os.unlink(os.path.join(folder, name))
    assert os.listdir(there) == []


def test_similar_paths_are_different_files(anywhere: Place) -> None:
    (anywhere.here / "a").mkdir()
    names = ["a/b", "a:b", "a\nb", "a b", "ab", "a%2fb", "a\\b"]
    for name in names:
        (anywhere.here / name).write_bytes(name.encode() * 1000)
    for name in names:
        assert (anywhere.there / name).read_bytes() == name.encode() * 1000


@pytest.mark.parametrize("make", [os.mkdir, lambda path: os.symlink("x", path), os.mkfifo, os.mknod])
def test_names_have_255_bytes_at_most(make: Callable[[Path], None], anywhere: Place) -> None:
    make(anywhere.here / LONGEST_NAME)
    assert os.listdir(anywhere.there) == [LONGEST_NAME]
    with fails(errno.ENAMETOOLONG):
        make(anywhere.here / (LONGEST_NAME + "n"))
    with fails(errno.ENAMETOOLONG):
        os.rename(anywhere.here / LONGEST_NAME, anywhere.here / (LONGEST_NAME + "n"))
    with fails(errno.ENAMETOOLONG):
        os.stat(anywhere.here / (LONGEST_NAME + "n"))


def test_deep_paths_work_up_to_the_kernels_limit(anywhere: Place) -> None:
    folder = anywhere.here
    while len(os.fsencode(folder)) + 200 < 4000:
        folder = folder / ("d" * 150)
        folder.mkdir()
    (folder / "file").write_bytes(b"deep")
    assert (folder / "file").read_bytes() == b"deep"
    relative = folder.relative_to(anywhere.here)
    if len(os.fsencode(anywhere.there / relative)) < 4090:
        assert (anywhere.there / relative / "file").stat().st_size == 4
    (anywhere.here / ("d" * 150)).rename(anywhere.here / "moved")
    assert (anywhere.here / "moved" / Path(*relative.parts[1:]) / "file").read_bytes() == b"deep"


def test_symlinks_keep_their_targets(anywhere: Place) -> None:
    targets = ["x", "../../up", "/absolute", "t" * 4095, "odd \udcff\n"]
    for number, target in enumerate(targets):
        os.symlink(target, anywhere.here / str(number))
        assert os.readlink(anywhere.there / str(number)) == target
        assert os.lstat(anywhere.there / str(number)).st_size == len(os.fsencode(target))
    with fails(errno.ENAMETOOLONG):
        os.symlink("t" * 4096, anywhere.here / "too-long")
    os.symlink("loop", anywhere.here / "loop")
    with fails(errno.ELOOP):
        os.stat(anywhere.here / "loop")


# --- errors


def test_calls_fail_as_linux_says(anywhere: Place) -> None:
    here = anywhere.here
    (here / "file").write_bytes(b"f")
    (here / "folder" / "inner").mkdir(parents=True)
    cases: list[tuple[Callable[[], object], int]] = [
        (lambda: os.stat(here / "missing"), errno.ENOENT),
        (lambda: os.open(here / "missing", os.O_RDONLY), errno.ENOENT),
        (lambda: os.open(here / "missing" / "x", os.O_CREAT), errno.ENOENT),
        (lambda: os.open(here / "file" / "x", os.O_CREAT), errno.ENOTDIR),
        (lambda: os.open(here / "folder", os.O_WRONLY), errno.EISDIR),
        (lambda: os.open(here / "folder", os.O_CREAT), errno.EISDIR),
        (lambda: os.open(here / "file", os.O_RDONLY | os.O_DIRECTORY), errno.ENOTDIR),
        (lambda: os.open(here / "file", os.O_CREAT | os.O_EXCL), errno.EEXIST),
        (lambda: os.mkdir(here / "file"), errno.EEXIST),
        (lambda: os.mkdir(here / "folder"), errno.EEXIST),
        (lambda: os.rmdir(here / "folder"), errno.ENOTEMPTY),
        (lambda: os.rmdir(here / "file"), errno.ENOTDIR),
        (lambda: os.rmdir(f"{here}/folder/."), errno.EINVAL),
        (lambda: os.unlink(here / "folder"), errno.EISDIR),
        (lambda: os.unlink(here / "missing"), errno.ENOENT),
        (lambda: os.readlink(here / "file"), errno.EINVAL),
        (lambda: os.symlink("x", here / "file"), errno.EEXIST),
        (lambda: os.truncate(here / "folder", 0), errno.EISDIR),
        (lambda: os.truncate(here / "file", -1), errno.EINVAL),
        (lambda: os.listdir(here / "file"), errno.ENOTDIR),
        (lambda: os.mkfifo(here / "file"), errno.EEXIST),
    ]
    for call, number in cases:
        with fails(number):
            call()
    assert sorted(os.listdir(anywhere.there)) == ["file", "folder"]


def test_descriptors_allow_what_they_were_opened_for(anywhere: Place) -> None:
    (anywhere.here / "file").write_bytes(b"f")
    with opened(anywhere.here / "file", os.O_RDONLY) as file:
        with fails(errno.EBADF):
            os.write(file, b"x")
        with fails(errno.EINVAL):
            os.ftruncate(file, 0)
    with opened(anywhere.here / "file", os.O_WRONLY) as file, fails(errno.EBADF):
        os.read(file, 1)


def test_a_listing_sees_creations_and_removals(anywhere: Place) -> None:
    """Entries that stay are listed once, whatever comes and goes beside them."""
    for number in range(300):
        (anywhere.here / f"stays-{number}").touch()
        (anywhere.here / f"goes-{number}").touch()
    listed = []
    with os.scandir(anywhere.there) as entries:
        for count, entry in enumerate(entries):
            listed.append(entry.name)
            if count % 2 and count // 2 < 300:
                (anywhere.here / f"goes-{count // 2}").unlink(missing_ok=True)
                (anywhere.here / f"comes-{count}").touch()
    assert len(listed) == len(set(listed))
    assert {name for name in listed if name.startswith("stays")} == {f"stays-{number}" for number in range(300)}


def test_remove_everything_while_listing(anywhere: Place) -> None:
    """As `rm -r` does: unlink each entry that the listing returns; nothing may be skipped."""
    for number in range(2500):
        os.close(os.open(anywhere.here / f"file-{number}", os.O_CREAT))
    with os.scandir(anywhere.here) as entries:
        for entry in entries:
            os.unlink(entry.path)
    assert os.listdir(anywhere.there) == []
