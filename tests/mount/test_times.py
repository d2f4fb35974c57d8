"""Which times a call moves, of everything there is in a small tree.

On the local disk too, which shows that the expectation is Linux's own.
"""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.mount.calls import opened
from tests.mount.conftest import Place
from tests.mount.twin_calls import EXCHANGE, NOW_NS, OMIT_NS, linkat, renameat2, utimensat

# The kernel's clock for times ticks every few milliseconds.
_TICK_S: Final = 0.012
_PAST_NS: Final = 10**18


class Row(NamedTuple):
    """A call in a tree of `_grow`, and whose times it moves.

    *moved*: "a", "m" and "c" for atime, mtime and ctime, by path afterwards. New files are not listed.
    *renamed*: the path before by the path afterwards. *vanished*: files that then have no name, by descriptor.
    """

    call: Callable[[], object]
    moved: dict[str, str]
    renamed: dict[str, str] = {}  # noqa: RUF012 - nobody changes it
    vanished: tuple[str, ...] = ()


def _open_with(flags: int, name: str, use: Callable[[int], object] = lambda descriptor: None) -> None:
    with opened(Path(name), flags) as descriptor:
        use(descriptor)


_FOLDER: Final = {".": "mc"}
_ROWS: Final = {
    "create": Row(lambda: _open_with(os.O_CREAT | os.O_EXCL, "new"), _FOLDER),
    "create a file that exists": Row(lambda: _open_with(os.O_CREAT | os.O_RDWR, "file"), {}),
    "mkdir": Row(lambda: os.mkdir("new"), _FOLDER),
    "mkdir below": Row(lambda: os.mkdir("folder/new"), {"folder": "mc"}),
    "symlink": Row(lambda: os.symlink("x", "new"), _FOLDER),
    "mknod": Row(lambda: os.mknod("new", stat.S_IFIFO | 0o600), _FOLDER),
    "link": Row(lambda: os.link("file", "new"), _FOLDER | {"file": "c"}),
    "link into a folder": Row(lambda: os.link("file", "folder/new"), {"folder": "mc", "file": "c"}),
    "link of a symbolic link": Row(lambda: linkat("link", "new", follow=False), _FOLDER | {"link": "c"}),
    "unlink": Row(lambda: os.unlink("file"), _FOLDER | {"file": "c"}, vanished=("file",)),
    "unlink one of two names": Row(lambda: os.unlink("twin-1"), _FOLDER | {"twin-2": "c"}),
    "rmdir": Row(lambda: os.rmdir("empty folder"), _FOLDER),
    "rename a file": Row(lambda: os.rename("file", "new"), _FOLDER | {"new": "c"}, {"new": "file"}),
    "rename a folder": Row(
        lambda: os.rename("empty folder", "new"), _FOLDER | {"new": "c"}, {"new": "empty folder"}
    ),
    "rename into a folder": Row(
        lambda: os.rename("file", "folder/new"),
        _FOLDER | {"folder": "mc", "folder/new": "c"},
        {"folder/new": "file"},
    ),
    "rename over a file": Row(
        lambda: os.rename("file", "empty"),
        _FOLDER | {"empty": "c", "replaced": "c"},
        {"empty": "file", "replaced": "empty"},
        vanished=("replaced",),
    ),
    "rename over one of two names": Row(
        lambda: os.rename("file", "twin-1"), _FOLDER | {"twin-1": "c", "twin-2": "c"}, {"twin-1": "file"}
    ),
    "rename onto another name of the same file": Row(lambda: os.rename("twin-1", "twin-2"), {}),
    "exchange": Row(
        lambda: renameat2("file", "empty", EXCHANGE),
        _FOLDER | {"file": "c", "empty": "c"},
        {"file": "empty", "empty": "file"},
    ),
    "exchange between folders": Row(
        lambda: renameat2("file", "folder/inner", EXCHANGE),
        _FOLDER | {"folder": "mc", "file": "c", "folder/inner": "c"},
        {"file": "folder/inner", "folder/inner": "file"},
    ),
    "chmod": Row(lambda: os.chmod("file", 0o600), {"file": "c"}),
    "chmod to the same mode": Row(lambda: os.chmod("file", 0o644), {"file": "c"}),
    "chmod of a folder": Row(lambda: os.chmod("folder", 0o700), {"folder": "c"}),
    "chown": Row(lambda: os.chown("file", 5, 6), {"file": "c"}),
    "chown of a symbolic link": Row(lambda: os.lchown("link", 5, 6), {"link": "c"}),
    "setxattr": Row(lambda: os.setxattr("file", "user.new", b"1"), {"file": "c"}),
    "setxattr of a folder": Row(lambda: os.setxattr("folder", "user.new", b"1"), {"folder": "c"}),
    "removexattr": Row(lambda: os.removexattr("marked", "user.mark"), {"marked": "c"}),
    "getxattr": Row(lambda: os.getxattr("marked", "user.mark"), {}),
    "write": Row(lambda: _open_with(os.O_WRONLY, "file", lambda file: os.write(file, b"x")), {"file": "mc"}),
    "write of nothing": Row(lambda: _open_with(os.O_WRONLY, "file", lambda file: os.write(file, b"")), {}),
    "append": Row(
        lambda: _open_with(os.O_WRONLY | os.O_APPEND, "file", lambda file: os.write(file, b"x")), {"file": "mc"}
    ),
    "open for writing": Row(lambda: _open_with(os.O_RDWR, "file"), {}),
    "truncate to the same size": Row(lambda: os.truncate("file", 4), {"file": "mc"}),
    "truncate to less": Row(lambda: os.truncate("file", 1), {"file": "mc"}),
    "truncate to more": Row(lambda: os.truncate("file", 9), {"file": "mc"}),
    "ftruncate to the same size": Row(
        lambda: _open_with(os.O_RDWR, "file", lambda file: os.ftruncate(file, 4)), {"file": "mc"}
    ),
    "ftruncate to less": Row(
        lambda: _open_with(os.O_RDWR, "file", lambda file: os.ftruncate(file, 1)), {"file": "mc"}
    ),
    "O_TRUNC": Row(lambda: _open_with(os.O_WRONLY | os.O_TRUNC, "file"), {"file": "mc"}),
    "O_TRUNC of an empty file": Row(lambda: _open_with(os.O_WRONLY | os.O_TRUNC, "empty"), {"empty": "mc"}),
    "utimes": Row(lambda: os.utime("file", ns=(1, 2)), {"file": "amc"}),
    "utimes to what they are": Row(lambda: os.utime("file", ns=(_PAST_NS, _PAST_NS)), {"file": "c"}),
    "utimes of a symbolic link": Row(lambda: os.utime("link", ns=(1, 2), follow_symlinks=False), {"link": "amc"}),
    "utimes of a folder": Row(lambda: os.utime("folder", ns=(1, 2)), {"folder": "amc"}),
    "utimes now": Row(lambda: utimensat("file", NOW_NS, NOW_NS, True), {"file": "amc"}),
    "utimes, atime only": Row(lambda: utimensat("file", 1, OMIT_NS, True), {"file": "ac"}),
    "utimes, mtime only": Row(lambda: utimensat("file", OMIT_NS, NOW_NS, True), {"file": "mc"}),
    "utimes of nothing": Row(lambda: utimensat("file", OMIT_NS, OMIT_NS, True), {}),
    "stat": Row(lambda: (os.stat("file"), os.access("folder", os.R_OK)), {}),
}
_TWINS: Final = (
    "unlink one of two names",
    "rename over one of two names",
    "rename onto another name of the same file",
)
_MARKED: Final = ("removexattr", "getxattr")


def _grow(name: str) -> None:
    """A tree with something for each purpose; two names of a file, and attributes, only if *name* needs them."""
    for folder in ("folder", "empty folder"):
        os.mkdir(folder)
    for path in ("file", "folder/inner"):
        Path(path).write_bytes(b"1234")
    Path("empty").touch()
    os.symlink("file", "link")
    if name in _TWINS:
        Path("twin-1").write_bytes(b"1234")
        os.link("twin-1", "twin-2")
    if name in _MARKED:
        Path("marked").touch()
        os.setxattr("marked", "user.mark", b"1")


def _times(path: str | int) -> tuple[int, ...]:
    status = os.lstat(path) if isinstance(path, str) else os.fstat(path)
    return status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns


@pytest.mark.parametrize("name", _ROWS)
def test_a_call_moves_these_times(name: str, anywhere: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    row = _ROWS[name]
    monkeypatch.chdir(anywhere.here)
    _grow(name)
    everything = [".", *(os.path.relpath(path) for path in Path.cwd().rglob("*"))]
    for path in everything:  # from here on no directory is listed, which would move its atime
        os.utime(path, ns=(_PAST_NS, _PAST_NS), follow_symlinks=False)
    before = {path: _times(path) for path in everything}
    kept = {path: os.open(row.renamed.get(path, path), os.O_RDONLY) for path in row.vanished}
    try:
        time.sleep(_TICK_S)
        row.call()
        after = {path: _times(path) for path in {*everything, *row.renamed} if os.path.lexists(path)}
        after |= {path: _times(descriptor) for path, descriptor in kept.items()}
    finally:
        for descriptor in kept.values():
            os.close(descriptor)
    moved = {
        path: "".join(which for which, old, new in zip("amc", before[source], times, strict=True) if old != new)
        for path, times in after.items()
        if (source := row.renamed.get(path, path)) in before
    }
    assert {path: which for path, which in moved.items() if which} == row.moved
