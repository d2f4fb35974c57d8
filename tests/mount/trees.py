"""Compare two directory trees: names, types, modes, owners, times, sizes, link targets, contents, which names are
hard links of one another, and extended attributes of users and of root.

Left out: sizes of directories, which mean something else on every file system, and atime and ctime, which no
copying program keeps.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

Facts = dict[str, object]
_READ_BYTES: Final = 1 << 20
_SHOWN_MAX: Final = 20


def facts(root: Path | bytes, *, times: bool = True) -> dict[bytes, Facts]:
    """Everything below and including *root*, by path relative to it."""
    top = os.fsencode(root)
    walked = [(os.path.relpath(path, top), path, status) for path, status in _walk(top)]
    found = {name: _facts_of(path, status, times=times) for name, path, status in walked}
    for names in _groups({name: status for name, _, status in walked}):
        for name in names:
            found[name]["links"] = names
    return found


def statuses(root: Path | bytes) -> dict[bytes, os.stat_result]:
    """The status of everything below *root* but directories, by path relative to it."""
    top = os.fsencode(root)
    return {os.path.relpath(path, top): status for path, status in _walk(top) if not stat.S_ISDIR(status.st_mode)}


def links(root: Path | bytes) -> list[list[bytes]]:
    """The groups of names below *root* that are hard links of one another."""
    return _groups(statuses(root))


def _groups(found: dict[bytes, os.stat_result]) -> list[list[bytes]]:
    groups: dict[tuple[int, int], list[bytes]] = {}
    for name, status in found.items():
        groups.setdefault((status.st_dev, status.st_ino), []).append(name)
    return sorted(names for names in groups.values() if len(names) > 1)


def attributes(path: Path | bytes) -> dict[str, bytes]:
    """The extended attributes `user.*` and `trusted.*`; those of the system are not for copying programs."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return {}  # a file system without them: it differs from one that holds some
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in sorted(names)
        if name.startswith(("user.", "trusted."))
    }


def assert_same(expected: Path | bytes, found: Path | bytes, *, times: bool = True) -> None:
    """AssertionError that lists what differs between the trees."""
    lines = list(differences(facts(expected, times=times), facts(found, times=times)))
    shown = "\n  ".join(lines[:_SHOWN_MAX])
    assert not lines, f"{len(lines)} differences between {expected!r} and {found!r}:\n  {shown}"


def differences(expected: dict[bytes, Facts], found: dict[bytes, Facts]) -> Iterator[str]:
    """One line for each difference."""
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            yield f"{name!r} is missing"
        elif name not in expected:
            yield f"{name!r} should not be there"
        else:
            for what in sorted(expected[name].keys() | found[name].keys()):
                value = expected[name].get(what)
                if found[name].get(what) != value:
                    yield f"{name!r}: {what} is {found[name].get(what)!r}, expected {value!r}"


def _walk(path: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    status = os.lstat(path)
    yield path, status
    if stat.S_ISDIR(status.st_mode):
        for name in sorted(os.listdir(path)):
            yield from _walk(os.path.join(path, name))


def _facts_of(path: bytes, status: os.stat_result, *, times: bool) -> Facts:
    found: Facts = {"type": stat.filemode(status.st_mode)[0], "mode": oct(stat.S_IMODE(status.st_mode))}
    found |= {"owner": status.st_uid, "group": status.st_gid}
    found |= {"attributes": attributes(path)}
    if times:
        found["mtime_ns"] = status.st_mtime_ns
    if not stat.S_ISDIR(status.st_mode):
        found["size"] = status.st_size
    if stat.S_ISLNK(status.st_mode):
        found["target"] = os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        found["contents"] = digest(path)
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        found["device"] = status.st_rdev
    return found


def digest(path: Path | bytes) -> str:
    """SHA-256 of a file's contents."""
    state = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_READ_BYTES):
            state.update(block)
    return state.hexdigest()
