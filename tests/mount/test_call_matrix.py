"""Every call by path on every kind of object as several users: errnos and effects are those of a local disk."""

import itertools
import os
import stat
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.mount.call_matrix import Matrix, matrix_of
from tests.mount.conftest import EMBEDDED, Both
from tests.mount.matrix_tree import (
    EVERYTHING,
    FILES,
    FOLDERS,
    FOREIGN_GROUP,
    LINKS,
    LONGEST,
    MEMBER,
    NEW,
    OTHER,
    OWNER,
)
from tests.mount.twin_calls import EXCHANGE, NOW_NS, OMIT_NS, ROOT, listxattr

pytestmark = pytest.mark.parametrize("file_system", [2, EMBEDDED], ids=["2-daemons", EMBEDDED], indirect=True)

_NOREPLACE: Final = 1
_USERS: Final = (ROOT, OWNER, MEMBER, OTHER)
_ORDINARY: Final = (OWNER, MEMBER, OTHER)


def _ways(path: str) -> tuple[bool, ...]:
    """Whether to follow symbolic links, where it matters."""
    return (True, False) if path in LINKS else (False,)


@pytest.fixture
def matrix(both: Both) -> Iterator[Matrix]:
    """The trees, and their comparison at the end."""
    with matrix_of(both) as found:
        yield found


def test_a_difference_is_shown(both: Both) -> None:
    with pytest.raises(AssertionError) as caught, matrix_of(both) as matrix:  # noqa: PT012 - one that agrees, too
        matrix.call(_break, "file", user=OWNER)
        matrix.call("unlink", "file", user=OWNER)
    call = "twin_calls._break('file')  # as user 1000 of groups (1000, 1000, 2000)"
    assert str(caught.value).splitlines() == [
        "2 differences in 2 calls:",
        f"{call}: the mount answers 'changed', a local disk None",
        f"{call}: 'file' has mode '-rwxrwxrwx', on a local disk '-rw-r--r--'",
    ]


def _break(path: str) -> str | None:
    if os.statvfs(".").f_flag & os.ST_NODEV:  # as on mounts
        os.chmod(path, 0o777)
        return "changed"
    return None


# --- names


@pytest.mark.parametrize("call", ["unlink", "rmdir"])
def test_removing(call: str, matrix: Matrix) -> None:
    for path in EVERYTHING:
        for user in _USERS:
            matrix.call(call, path, user=user)


def test_making_directories_and_nodes(matrix: Matrix) -> None:
    for path in EVERYTHING:
        for user in _USERS:
            matrix.call("mkdir", path, 0o777, user=user)
            matrix.call("mknod", path, stat.S_IFIFO | 0o666, user=user)
    for path in (*NEW, "file", "dangling", "file/x", "absent/x"):
        for user in _USERS:
            for kind in (stat.S_IFREG, stat.S_IFSOCK):
                matrix.call("mknod", path, kind | 0o644, user=user)
            for kind in (stat.S_IFCHR, stat.S_IFBLK):
                matrix.call("mknod", path, kind | 0o644, os.makedev(7, 300), user=user)
            matrix.call("mknod", path, stat.S_IFDIR | 0o755, user=user)
            matrix.call("mknod", path, stat.S_IFLNK | 0o755, user=user)


def test_modes_of_what_is_made(matrix: Matrix) -> None:
    for path in ("new", "group/new"):
        for user in (ROOT, OTHER):
            for umask in (0, 0o027, 0o777):
                for mode in (0, 0o1777, 0o2777, 0o2745, 0o6777):
                    matrix.call("mkdir", path, mode, user=user, umask=umask)
                    matrix.call("mknod", path, stat.S_IFREG | mode, user=user, umask=umask)
                    matrix.call(_create, path, mode, user=user, umask=umask)


def _create(path: str, mode: int) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY, mode))


def test_making_symbolic_links(matrix: Matrix) -> None:
    for path in EVERYTHING:
        for user in _USERS:
            matrix.call("symlink", b"anything", path, user=user)
    for target in (b"", b"/", b"x" * 4095, b"x" * 4096, b"\xff\n", b"x" * 59, b"x" * 60, b"a/" * 300):
        matrix.call("symlink", target, "new")


_SQUARE: Final = (
    *("file", "root's", "twin-1", "twin-2", "fifo", "to-file", "to-folder", "dangling", "loop"),
    *("empty", "shared", "full", "full/inner", "full/sub", "blind/inner", "locked", "locked/sub"),
    *("sticky", "sticky/inner", "sticky/root's", "sticky/sub", "group", "group/sub"),
    *("new", "shared/new", "sticky/new", "locked/new", "group/new", "full/sub/new", "to-folder/new"),
)
_SQUARE_ODD: Final = (
    *(
        "new/",
        "empty/",
        "file/",
        "to-folder/",
        ".",
        "..",
        "full/.",
        "full/..",
        "file/x",
        "absent/x",
        LONGEST + "n",
        "",
    ),
)
# What each odd path is combined with, both ways.
_FEW: Final = ("file", "empty", "full", "to-folder", "new", "full/inner")
# Of which it matters who owns them.
_OTHERS: Final = (
    *(
        "file",
        "root's",
        "empty",
        "shared",
        "full",
        "full/inner",
        "full/sub",
        "blind/inner",
        "locked/sub",
        "sticky",
    ),
    *("sticky/inner", "sticky/root's", "sticky/sub", "group/sub", *NEW),
)


def _pairs() -> Iterator[tuple[str, str]]:
    yield from itertools.product(_SQUARE, _SQUARE)
    yield from itertools.product(_SQUARE_ODD, _FEW)
    yield from itertools.product(_FEW, _SQUARE_ODD)


@pytest.mark.parametrize("user", [ROOT, OWNER, MEMBER], ids=["root", "owner", "member"])
def test_renaming(user: Any, matrix: Matrix) -> None:
    for old, new in itertools.product(_OTHERS, _OTHERS) if user == MEMBER else _pairs():
        matrix.call("rename", old, new, user=user)


def test_renaming_with_flags(matrix: Matrix) -> None:
    for old, new in _pairs():
        matrix.call("renameat2", old, new, _NOREPLACE, user=OWNER)
        matrix.call("renameat2", old, new, EXCHANGE, user=OWNER)
    for flags in (_NOREPLACE | EXCHANGE, 1 << 5):
        matrix.call("renameat2", "file", "new", flags)


_LINKED_TO: Final = (
    "new",
    "group/new",
    "file",
    "empty",
    "dangling",
    "new/",
    "file/x",
    "absent/x",
    ".",
    LONGEST + "n",
)


@pytest.mark.parametrize("user", [ROOT, OWNER, OTHER], ids=["root", "owner", "other"])
def test_linking(user: Any, matrix: Matrix) -> None:
    for old in EVERYTHING:
        for new in _LINKED_TO if user == ROOT else NEW:
            for follow in _ways(old):
                matrix.call("linkat", old, new, follow, user=user)


def test_names_on_other_file_systems(matrix: Matrix) -> None:
    for path in EVERYTHING:
        for user in _USERS:
            matrix.call("rename", path, "/proc/new", user=user)
            matrix.call("linkat", path, "/proc/new", False, user=user)
            matrix.call("rename", "/proc/version", path, user=user)
            matrix.call("linkat", "/proc/version", path, False, user=user)


# --- attributes


def test_chmod(matrix: Matrix) -> None:
    for path in EVERYTHING:
        for user in _USERS:
            for mode in (0o640, 0o7777):
                matrix.call("chmod", path, mode, user=user)
    for path in ("file", "set-id", "foreign", "root's", "empty", "group/sub", "group", "fifo", "twin-1"):
        for user in _USERS:
            for mode in (0, 0o1644, 0o2644, 0o2755, 0o4644, 0o6755, 0o1777, 0o177777):
                matrix.call("chmod", path, mode, user=user)


def test_chown(matrix: Matrix) -> None:
    for path in EVERYTHING:
        for user in _USERS:
            for follow in _ways(path):
                matrix.call("chown", path, -1, 2000, user=user, follow_symlinks=follow)
    owners = (
        (-1, -1),
        (1000, -1),
        (1000, 2000),
        (0, -1),
        (3000, 3000),
        (-1, 1000),
        (-1, FOREIGN_GROUP),
        (2500, 2000),
    )
    for path in (*FILES, *FOLDERS, "group/sub", "fifo", "twin-1", "to-file"):
        for user in _USERS:
            for uid, gid in owners:
                # Set-group-id without execution, for which the kernel takes no care on a mount.
                if (path, user, uid, gid) != ("set-gid-only", OTHER, -1, -1):
                    matrix.call("chown", path, uid, gid, user=user)


def test_set_id_bits_after_chown(matrix: Matrix) -> None:
    for path in ("file", "foreign", "empty"):
        for mode in (0o2644, 0o2654, 0o4644, 0o6755, 0o6711, 0o6666, 0o7777):
            for user in (ROOT, OWNER):
                if path == "foreign" and user == OWNER and mode & 0o2010 == 0o2000:
                    continue  # likewise: it stays
                for owner in ((-1, -1), (1000, -1), (-1, 1000), (-1, 2000)):
                    matrix.call(_chmod_and_chown, path, mode, user, *owner, user=user)


def _chmod_and_chown(path: str, mode: int, user: Any, uid: int, gid: int) -> None:
    os.seteuid(0)
    os.chmod(path, mode)
    os.seteuid(user.uid)
    os.chown(path, uid, gid)


def test_utimensat(matrix: Matrix) -> None:
    for path in EVERYTHING:
        for user in _USERS:
            for times in ((NOW_NS, NOW_NS), (1, 2), (OMIT_NS, OMIT_NS), (OMIT_NS, NOW_NS), (5, OMIT_NS)):
                for follow in _ways(path):
                    matrix.call("utimensat", path, *times, follow, user=user, looks=True)


def test_truncate(matrix: Matrix) -> None:
    for path in EVERYTHING:
        for user in _USERS:
            matrix.call("truncate", path, 4, user=user)
    for path in (*FILES, "twin-1", "to-file"):
        for user in _USERS:
            for size in (0, 10, 4096, (1 << 20) + 1, 1 << 40, -1, -(1 << 63)):
                matrix.call("truncate", path, size, user=user)


_ATTRIBUTES: Final = ("user.a", "user.", "trusted.a", "plain", "user." + "n" * 250, "user." + "n" * 251)


def test_extended_attributes(matrix: Matrix) -> None:
    for path in EVERYTHING:
        for user in _USERS:
            for follow in _ways(path):
                for name in ("user.a", "trusted.a"):
                    matrix.call(_set_and_remove, path, name, follow, user=user, looks=True)
                    matrix.call("getxattr", path, name, user=user, looks=True, follow_symlinks=follow)
                    matrix.call("removexattr", path, name, user=user, looks=True, follow_symlinks=follow)
                matrix.call("listxattr", path, user=user, looks=True, follow_symlinks=follow)
    for name in _ATTRIBUTES:
        for user in _USERS:
            for path in ("file", "empty", "fifo"):
                matrix.call(_set_and_remove, path, name, True, user=user, looks=True)
                matrix.call("getxattr", path, name, user=user, looks=True)
                for flag in (os.XATTR_CREATE, os.XATTR_REPLACE, 8):
                    matrix.call(_set_and_remove, path, name, True, flag, user=user, looks=True)


def _set_and_remove(path: str, name: str, follow: bool, flags: int = 0) -> Any:
    """What is found meanwhile."""
    os.setxattr(path, name, b"value", flags, follow_symlinks=follow)
    try:
        found = os.getxattr(path, name, follow_symlinks=follow)
    except OSError as error:
        return error.errno
    finally:
        os.removexattr(path, name, follow_symlinks=follow)
    return found, listxattr(path, follow)


# --- looking


def _chdir(path: str) -> list[str]:
    os.chdir(path)
    return _listed("") if path != ".." else []


def _listed(path: str) -> list[str]:
    return sorted(os.listdir(path or ".")) if os.path.basename(path) != ".." else []


def test_looking(matrix: Matrix) -> None:
    for path in EVERYTHING:
        for user in _USERS:
            for call in ("readlink", "statvfs", _chdir, _listed, _stat, _lstat):
                matrix.call(call, path, user=user, looks=True)
            for mode in range(8):
                matrix.call("access", path, mode, user=user, looks=True)


def _stat(path: str) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_mode, found.st_uid, found.st_gid, found.st_rdev


def _lstat(path: str) -> tuple[int, ...]:
    found = os.lstat(path)
    return found.st_mode, found.st_uid, found.st_gid, found.st_rdev, found.st_nlink
