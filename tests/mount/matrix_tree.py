"""A small tree with an object of every kind, which is mended after each call that changes it.

Names of one *unit* are made and removed together. All belong to user 1000 and group 2000 unless they
say otherwise.
"""

import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from tests.mount.twin_calls import User

OWNER: Final = User(1000, 1000, (1000, 2000))
MEMBER: Final = User(2500, 2500, (2500, 2000))  # of the group of most objects
OTHER: Final = User(3000, 3000, (3000,))
LONGEST: Final = "n" * 255
FOREIGN_GROUP: Final = 4000  # nobody's
_TOP_MODE: Final = 0o777
_NULL: Final = os.makedev(1, 3)
_FOLDER: Final = stat.S_IFDIR


class Thing(NamedTuple):
    """How one object is made. *link*: what a symbolic link contains, or another name of the file."""

    path: str
    mode: int
    uid: int = 1000
    gid: int = 2000
    link: str = ""


def _link(path: str, content: str) -> Thing:
    return Thing(path, stat.S_IFLNK | 0o777, link=content)


_UNITS: Final[dict[str, tuple[Thing, ...]]] = {
    things[0].path: things
    for things in (
        (Thing("file", 0o644),),
        (Thing("private", 0o600),),
        (Thing("closed", 0o000),),
        (Thing("set-id", 0o6755),),
        (Thing("set-id-all", 0o6777),),
        (Thing("set-gid-only", 0o2664),),
        (Thing("read-only", 0o444),),
        (Thing("foreign", 0o664, gid=FOREIGN_GROUP),),
        (Thing("root's", 0o644, 0, 0),),
        (Thing("twin-1", 0o666), Thing("twin-2", 0o666, link="twin-1")),
        (Thing(LONGEST, 0o666),),
        (Thing("fifo", stat.S_IFIFO | 0o660),),
        (Thing("socket", stat.S_IFSOCK | 0o755),),
        (Thing("device", stat.S_IFCHR | 0o666),),
        (_link("to-file", "file"),),
        (_link("to-folder", "full"),),
        (_link("dangling", "nowhere"),),
        (_link("loop", "loop"),),
        (_link("through", "to-folder/inner"),),
        (Thing("empty", _FOLDER | 0o755),),
        (Thing("shared", _FOLDER | 0o775, 0),),
        (Thing("full", _FOLDER | 0o755), Thing("full/inner", 0o644), Thing("full/sub", _FOLDER | 0o755)),
        (Thing("blind", _FOLDER | 0o666), Thing("blind/inner", 0o666)),
        (Thing("locked", _FOLDER | 0o555), Thing("locked/inner", 0o666), Thing("locked/sub", _FOLDER | 0o777)),
        (
            Thing("sticky", _FOLDER | 0o1777, 2500),
            Thing("sticky/inner", 0o666),
            Thing("sticky/root's", 0o666, 0, 0),
            Thing("sticky/sub", _FOLDER | 0o777),
        ),
        (
            Thing("group", _FOLDER | 0o2777, 0, FOREIGN_GROUP),
            Thing("group/inner", 0o666),
            Thing("group/sub", _FOLDER | 0o2775),
        ),
    )
}
_UNIT_OF: Final = {thing.path.partition("/")[0]: unit for unit, things in _UNITS.items() for thing in things}
_PATHS: Final = tuple(thing.path for things in _UNITS.values() for thing in things)

_LED_TO: Final = {"to-file": "file", "to-folder": "full", "through": "full", "dangling": "nowhere"}

FILES: Final = (
    "file",
    "private",
    "closed",
    "set-id",
    "set-id-all",
    "set-gid-only",
    "read-only",
    "foreign",
    "root's",
)
SPECIAL: Final = ("twin-1", "fifo", "socket", "device")
LINKS: Final = ("to-file", "to-folder", "dangling", "loop", "through")
FOLDERS: Final = ("empty", "shared", "full", "blind", "locked", "sticky", "group")
BELOW: Final = (
    *("full/inner", "full/sub", "blind/inner", "locked/inner", "locked/sub"),
    *("sticky/inner", "sticky/root's", "sticky/sub", "group/inner", "group/sub", "to-folder/inner"),
)
NEW: Final = (
    "new",
    "empty/new",
    "shared/new",
    "blind/new",
    "locked/new",
    "sticky/new",
    "group/new",
    "to-folder/new",
)
# What leads nowhere, or there in an odd way.
ODD: Final = (
    *("", ".", "..", "./", "empty/.", "empty/..", "empty/", "full/", "file/", "new/", "dangling/", "loop/"),
    *("to-folder/", "to-folder/.", "to-file/", "file/x", "absent/x", "dangling/x", "loop/x", "fifo/x", "file/.."),
    *(LONGEST, LONGEST + "n", "./" * 2047 + "f", "./" * 2047 + "ff", "empty/../" * 400 + "file"),
)
EVERYTHING: Final = FILES + SPECIAL + LINKS + FOLDERS + BELOW + NEW + ODD

Facts = dict[str, object]


def near(path: str, paths: Iterable[str]) -> set[str]:
    """Those of *paths* that a call on *path* may concern."""
    first = path.lstrip("./").partition("/")[0]
    firsts = {
        first,
        _LED_TO.get(first, first),
        *(name for name, unit in _UNIT_OF.items() if unit == _UNIT_OF.get(first)),
    }
    return {found for found in paths if found.partition("/")[0] in firsts}


class Tree:
    """The tree in the directory *top*, which is open."""

    def __init__(self, top: int) -> None:
        self.top = top
        self._known: dict[str, Facts] = {}  # as made
        self._names: dict[int, str] = {}  # by inode number, likewise
        os.fchdir(top)
        os.fchmod(top, _TOP_MODE)
        self._make(_UNITS)

    def paths(self) -> set[str]:
        """Everything there is, and what was made."""
        os.fchdir(self.top)
        found = {
            os.path.relpath(os.path.join(folder, name))
            for folder, below, files in os.walk(".")
            for name in (*below, *files)
        }
        return found.union(_PATHS)

    def facts(self, paths: Iterable[str]) -> dict[str, Facts]:
        """What is found under *paths*, and at the top."""
        os.fchdir(self.top)
        return {path: self._facts(path) for path in (".", *paths)}

    def _facts(self, path: str) -> Facts:
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return {}
        except OSError as error:  # a directory is now something else
            return {"cannot be looked at": error.strerror}
        facts: Facts = {
            "mode": stat.filemode(found.st_mode),
            "owner": (found.st_uid, found.st_gid),
            "links": found.st_nlink,
            "was": self._names.get(found.st_ino, "nothing"),
        }
        if stat.S_ISLNK(found.st_mode):
            facts["target"] = os.readlink(path)
        elif not stat.S_ISDIR(found.st_mode):
            facts |= {"size": found.st_size, "device": found.st_rdev}
        return facts

    def changed(self, facts: dict[str, Facts]) -> set[str]:
        """The paths under which there is no longer what was made."""
        return {path for path, found in facts.items() if found != self._known.get(path, {})}

    def mend(self, changed: Iterable[str]) -> None:
        """Put *changed* in order again."""
        os.fchdir(self.top)
        os.fchmod(self.top, _TOP_MODE)
        os.fchown(self.top, 0, 0)
        firsts = {path.partition("/")[0] for path in changed} - {"."}
        units = {_UNIT_OF[first] for first in firsts if first in _UNIT_OF}
        for first in firsts | {first for first, unit in _UNIT_OF.items() if unit in units}:
            _remove(first)
        gone = {thing.path for unit in units for thing in _UNITS[unit]}
        self._names = {number: path for number, path in self._names.items() if path not in gone}
        self._make(units)

    def _make(self, units: Iterable[str]) -> None:
        things = [thing for unit in units for thing in _UNITS[unit]]
        for thing in things:
            _make(thing)
        for thing in things:
            self._names[os.lstat(thing.path).st_ino] = thing.path
        self._names[os.lstat(".").st_ino] = "."
        self._known |= self.facts([thing.path for thing in things])


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except IsADirectoryError:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass


def _make(thing: Thing) -> None:
    maker = _MAKERS.get(stat.S_IFMT(thing.mode), _make_file)
    if thing.link and not stat.S_ISLNK(thing.mode):
        os.link(thing.link, thing.path)
        return
    maker(thing)
    os.chown(thing.path, thing.uid, thing.gid, follow_symlinks=False)
    if not stat.S_ISLNK(thing.mode):
        os.chmod(thing.path, stat.S_IMODE(thing.mode))


def _make_file(thing: Thing) -> None:
    descriptor = os.open(thing.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    os.write(descriptor, b"0123456789")
    os.close(descriptor)


def _make_socket(thing: Thing) -> None:
    """With nobody behind it."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(thing.path)


_MAKERS: Final[dict[int, Callable[[Thing], None]]] = {
    stat.S_IFDIR: lambda thing: os.mkdir(thing.path),
    stat.S_IFLNK: lambda thing: os.symlink(thing.link, thing.path),
    stat.S_IFIFO: lambda thing: os.mkfifo(thing.path),
    stat.S_IFCHR: lambda thing: os.mknod(thing.path, stat.S_IFCHR, _NULL),
    stat.S_IFSOCK: _make_socket,
}
