"""Compare two directory trees: names, types, modes, owners, times, sizes, link targets and contents.

Left out: sizes of directories, which mean something else on every file system, and atime and ctime, which no
copying program keeps.
"""

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
    return {os.path.relpath(path, top): _facts_of(path, times=times) for path in _walk(top)}


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
            for what, value in expected[name].items():
                if found[name].get(what) != value:
                    yield f"{name!r}: {what} is {found[name].get(what)!r}, expected {value!r}"


def _walk(path: bytes) -> Iterator[bytes]:
    yield path
    if stat.S_ISDIR(os.lstat(path).st_mode):
        for name in sorted(os.listdir(path)):
            yield from _walk(os.path.join(path, name))


def _facts_of(path: bytes, *, times: bool) -> Facts:
    status = os.lstat(path)
    found: Facts = {"type": stat.filemode(status.st_mode)[0], "mode": oct(stat.S_IMODE(status.st_mode))}
    found |= {"owner": status.st_uid, "group": status.st_gid}
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
