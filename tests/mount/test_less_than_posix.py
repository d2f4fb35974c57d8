"""What is less than POSIX asks, as docs/consistency.md lists it, with what it says to do instead."""

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import stat
import struct
from pathlib import Path

import pytest

from tests.mount.calls import MIB, errno_of, fails, noise, opened
from tests.mount.conftest import Place
from tests.mount.file_system import FileSystem, wait_until
from tests.mount.programs import at_once, run

_SOMEBODY = 4321


def _take_lock(path: Path, *, expected: int) -> None:
    with opened(path, os.O_RDWR) as file:
        for take in (fcntl.flock, fcntl.lockf):
            assert errno_of(lambda take=take: take(file, fcntl.LOCK_EX | fcntl.LOCK_NB)) == expected  # type: ignore[misc]


def test_locks_hold_within_one_node_and_o_excl_between_nodes(place: Place) -> None:
    (place.here / "file").touch()
    with opened(place.here / "file", os.O_RDWR) as file:
        for take in (fcntl.flock, fcntl.lockf):
            take(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for view, expected in ((place.here, errno.EWOULDBLOCK), (place.there, 0)):
            at_once(lambda path, number: _take_lock(path, expected=number), [(view / "file", expected)])
        with opened(place.there / "lock", os.O_CREAT | os.O_EXCL), fails(errno.EEXIST):
            os.open(place.here / "lock", os.O_CREAT | os.O_EXCL)


def test_what_others_write_is_read_by_a_new_open_or_past_the_cache(file_system: FileSystem, place: Place) -> None:
    direct = file_system.mount("--direct-io")
    try:
        (place.here / "file").write_bytes(noise(MIB, 0))
        with (
            opened(place.there / "file", os.O_RDONLY) as old,
            opened(place.there / "file", os.O_RDONLY | os.O_DIRECT) as past,
            opened(direct / place.here.name / "file", os.O_RDONLY) as mounted_direct,
        ):
            for seed in range(1, 4):
                before = os.pread(old, MIB, 0)
                with opened(place.here / "file", os.O_WRONLY) as file:
                    os.pwrite(file, noise(MIB, seed), 0)
                    os.fsync(file)
                assert os.pread(old, MIB, 0) in (before, noise(MIB, seed))
                assert os.pread(past, MIB, 0) == os.pread(mounted_direct, MIB, 0) == noise(MIB, seed)
                assert (place.there / "file").read_bytes() == noise(MIB, seed)
    finally:
        file_system.umount(direct)


def test_a_handle_for_appending_cannot_be_mapped_and_appends_for_ever(place: Place) -> None:
    (place.here / "file").write_bytes(b"0123")
    with opened(place.here / "file", os.O_RDWR | os.O_APPEND) as file:
        with fails(errno.ENODEV):
            mmap.mmap(file, 4)
        fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) & ~os.O_APPEND)
        os.pwrite(file, b"45", 0)
    with opened(place.there / "file", os.O_RDWR) as file, mmap.mmap(file, 0) as view:
        assert view[:] == b"012345"


def test_reading_does_not_set_atime_and_utimes_does(place: Place) -> None:
    (place.here / "file").write_bytes(b"content")
    os.utime(place.here / "file", ns=(1000, 2000))
    for view in (place.here, place.there):
        (view / "file").read_bytes()
        os.listdir(view)
    assert (place.there / "file").stat().st_atime_ns == (place.here / "file").stat().st_atime_ns == 1000
    os.utime(place.there / "file", ns=(3000, 2000))
    # At once, but for what a listing has shown a moment ago.
    wait_until(lambda: (place.here / "file").stat().st_atime_ns == 3000, "the new time shows", limit_s=30)


def test_fallocate_is_refused_and_posix_fallocate_writes(place: Place) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with opened(place.here / "file", os.O_RDWR | os.O_CREAT) as file:
        os.pwrite(file, b"start", 0)
        for mode in (0, 1, 3):  # also FALLOC_FL_KEEP_SIZE, and with it FALLOC_FL_PUNCH_HOLE
            assert libc.fallocate(file, mode, ctypes.c_long(0), ctypes.c_long(MIB)) == -1
            assert ctypes.get_errno() == errno.EOPNOTSUPP
        os.posix_fallocate(file, 0, MIB)
    assert (place.there / "file").read_bytes() == b"start" + bytes(MIB - 5)


def test_copy_file_range_is_refused_and_copying_writes(place: Place) -> None:
    (place.here / "source").write_bytes(noise(MIB))
    with (
        opened(place.here / "source", os.O_RDONLY) as source,
        opened(place.here / "target", os.O_WRONLY | os.O_CREAT) as target,
    ):
        # Some kernels copy by themselves then.
        assert errno_of(lambda: os.copy_file_range(source, target, MIB)) in (errno.EOPNOTSUPP, 0)
    shutil.copyfile(place.here / "source", place.there / "copy")
    assert (place.here / "copy").read_bytes() == noise(MIB)


def test_access_lists_and_attributes_of_the_system_are_refused(place: Place) -> None:
    (place.here / "folder").mkdir()
    nobody = 0xFFFF_FFFF
    entries = [(1, 6, nobody), (2, 4, _SOMEBODY), (4, 4, nobody), (0x10, 4, nobody), (0x20, 4, nobody)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    for view in (place.here, place.there):
        for name in ("system.posix_acl_access", "system.posix_acl_default"):
            with fails(errno.EOPNOTSUPP):
                os.setxattr(view / "folder", name, acl)
        for name in ("security.something", "system.something"):
            with fails(errno.EOPNOTSUPP):
                os.setxattr(view / "folder", name, b"value")
    assert os.listxattr(place.there / "folder") == []


def test_extended_attributes_of_one_file_have_96_kib(place: Place) -> None:
    (place.here / "file").touch()
    value = noise(30_000)
    for number in range(3):
        os.setxattr((place.here, place.there)[number % 2] / "file", f"user.{number}", value)
    for view in (place.here, place.there):
        with fails(errno.ENOSPC):
            os.setxattr(view / "file", "user.more", value)
        assert {name: os.getxattr(view / "file", name) for name in os.listxattr(view / "file")} == {
            f"user.{number}": value for number in range(3)
        }


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK], ids=["character", "block"])
def test_devices_can_be_made_and_not_opened(kind: int, place: Place) -> None:
    os.mknod(place.here / "device", kind | 0o666, os.makedev(1, 5))
    for view in (place.here, place.there):
        assert (view / "device").stat().st_rdev == os.makedev(1, 5)
        with fails(errno.EACCES):
            os.open(view / "device", os.O_RDONLY)


def test_set_id_programs_give_no_rights(place: Place) -> None:
    shutil.copyfile("/usr/bin/id", place.here / "id")
    (place.here / "id").chmod(0o6755)
    for view in (place.here, place.there):
        for parent in (view, *view.parents):
            assert parent.stat().st_mode & 0o001 or run("chmod", "o+x", parent) == ""
        assert run(view / "id", "-u", user=_SOMEBODY).strip() == str(_SOMEBODY)
        assert run(view / "id", "-g", user=_SOMEBODY).strip() == str(_SOMEBODY)


def _chmod_as_somebody(path: Path) -> None:
    os.setgroups([])
    os.setgid(_SOMEBODY)
    os.setuid(_SOMEBODY)
    os.chmod(path, 0o640)


def test_a_new_owner_may_change_the_mode_by_path_on_every_node(place: Place) -> None:
    """Through a handle that was open before, the kernel may still know the old owner."""
    for view in (place.here, place.there):
        for parent in (view, *view.parents):
            assert parent.stat().st_mode & 0o001 or run("chmod", "o+x", parent) == ""
    (place.here / "file").touch()
    with opened(place.there / "file", os.O_RDWR) as file:
        os.chown(place.here / "file", _SOMEBODY, _SOMEBODY)
        at_once(_chmod_as_somebody, [(place.there / "file",)])
        assert stat.S_IMODE(os.fstat(file).st_mode) == 0o640
    assert stat.S_IMODE((place.here / "file").stat().st_mode) == 0o640


def _write_with_set_id_bits_given_elsewhere(here: Path, there: Path) -> None:
    os.setgroups([])
    os.setgid(_SOMEBODY)
    os.setuid(_SOMEBODY)
    with opened(there, os.O_WRONLY) as file:
        os.chmod(here, 0o6775)
        os.write(file, b"written")


def test_set_id_bits_that_another_node_gave_go_when_what_was_written_is_published(place: Place) -> None:
    for view in (place.here, place.there):
        for parent in (view, *view.parents):
            assert parent.stat().st_mode & 0o001 or run("chmod", "o+x", parent) == ""
    (place.here / "file").touch()
    os.chown(place.here / "file", _SOMEBODY, _SOMEBODY)
    at_once(_write_with_set_id_bits_given_elsewhere, [(place.here / "file", place.there / "file")])
    for view in (place.here, place.there):
        assert stat.S_IMODE((view / "file").stat().st_mode) == 0o775


def test_what_is_stored_behind_the_end_is_in_no_file_until_it_grows(place: Place) -> None:
    (place.here / "file").write_bytes(b"x" * 100)
    with opened(place.here / "file", os.O_RDWR) as file, mmap.mmap(file, 100) as view:
        pointer = ctypes.addressof(ctypes.c_char.from_buffer(view))
        ctypes.memmove(pointer + 200, b"behind", 6)
        view.flush()
        assert (place.there / "file").read_bytes() == b"x" * 100
        os.ftruncate(file, 300)
        found = os.pread(file, 1000, 0)
        assert found[:200] == b"x" * 100 + bytes(100)
        assert found[200:206] in (b"behind", bytes(6))
    assert len((place.there / "file").read_bytes()) == 300
