"""The same system calls on two directory trees, one on a mount and one on a local disk, and what differs.

A difference is reduced to a short script of calls, by leaving out one call after the other.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from tests.mount import trees, twin_calls
from tests.mount.twin_calls import (
    EXPLICIT_BEFORE_NS,
    ROOT,
    USUAL_UMASK,
    Call,
    Descriptor,
    Failure,
    Filling,
    User,
)

# Where the calls are made: in its own directory, so that a path that leads out of it does no harm.
_INNER: Final = "tree"
# What may differ when two nodes look at a directory: it reaches other nodes a moment later.
_UNSETTLED: Final = ("links", "mtime_ns")
_WRITING: Final = {"write", "pwrite", "write_and_sync", "pwrite_and_sync", "copy_file_range", "sendfile"}


class Difference(AssertionError):
    """The trees or the results of a call differ."""

    def __init__(self, what: str, calls: list[Call]) -> None:
        script = "\n".join(map(twin_calls.line, calls))
        super().__init__(f"{what}\n\nafter this script in an empty directory:\n\n{script}\n")
        self.calls = calls


class Twins:
    """Two trees, empty at first. Every call is made in both.

    *others*: the mounted tree as further nodes see it. What a directory's entries lead to, its times and link
    count, reaches other nodes a moment later, so with them it is not compared.
    """

    def __init__(self, mounted: Path, local: Path, *others: Path) -> None:
        self._roots = (mounted, local)
        self._views = (mounted, *others)
        self._descriptors: list[tuple[int, int]] = []
        self._openers: list[tuple[int, User]] = []  # of the descriptors: on which node, and who
        self._open: set[int] = set()
        self._calls: list[Call] = []
        self._inodes: dict[object, object] = {}  # local to mounted, of files that cannot vanish: see _identify
        self._pins: list[int] = []
        self.difference: Difference | None = None
        for root in self._roots:
            root.mkdir()
            (root / _INNER).mkdir()
            (root / _INNER).chmod(0o777)
        self._local = _directory(local)
        self._mounted = [_directory(view) for view in self._views]

    def call(
        self,
        name: str,
        *arguments: Any,
        node: int = 0,
        user: User = ROOT,
        umask: int = USUAL_UMASK,
        **options: Any,
    ) -> Any:
        """`os.name(*arguments)` in both trees: strings are paths below the roots. What both returned.

        In the mounted tree it is made on *node*, modulo their number, or on that of the descriptor. What writes to
        a descriptor is made by who opened it, as a mount looks only there for who may keep set-id bits.
        None without any call, when it is one of those of which nothing is promised.
        """
        opened = [given.number for given in arguments if isinstance(given, Descriptor)]
        if opened:
            node, opener = self._openers[opened[-1] if name == "copy_file_range" else opened[0]]
            user = opener if name in _WRITING else user
        node %= len(self._views)
        if not self._is_promised(name, arguments):
            return None
        function = twin_calls.FUNCTIONS.get(name) or getattr(os, name)
        answers = []
        for side, folder in enumerate((self._mounted[node], self._local)):
            given = [self._own(side, argument) for argument in arguments]
            with _inside(folder), twin_calls.made_by(user, umask):
                answers.append(twin_calls.made(function, given, options))
        inodes = [answer.pop("inode") for answer in answers if isinstance(answer, dict)]
        mounted, local = (self._settled(answer) for answer in answers)
        if name == "open" and not isinstance(mounted, Failure) and not isinstance(local, Failure):
            self._open.add(len(self._descriptors))
            self._descriptors.append((mounted, local))
            self._openers.append((node, user))
            mounted = local = Descriptor(len(self._descriptors) - 1)
        if name == "close":
            self._open.discard(arguments[0].number)
        self._calls.append(Call(name, arguments, options, node, user, umask, local))
        if mounted != local:
            shown = [twin_calls.shown_result(answer) for answer in (mounted, local)]
            self._fail(f"the mount answers {shown[0]}, a local disk {shown[1]}")
        if len(inodes) == 2:
            self._pin(arguments[0], follow=name == "stat")
            self._identify(str(arguments[0]), mounted=inodes[0], local=inodes[1])
        return local

    def existing(self, *, directories: bool = False) -> list[str]:
        """Everything there is, or all directories, as paths below the roots."""
        top = self._roots[1] / _INNER
        found = [(os.path.relpath(folder, top), below, files) for folder, below, files in os.walk(top)]
        paths = [
            os.path.normpath(os.path.join(folder, name))
            for folder, below, files in found
            for name in (below if directories else files + below)
        ]
        return sorted(path for path in paths if not (directories and os.path.islink(top / path)))

    def compare(self) -> None:
        """Both trees hold the same."""
        for view in self._views:
            self._compare_with(view)

    def _compare_with(self, view: Path) -> None:
        mounted, local = _facts(view / _INNER), _facts(self._roots[1] / _INNER)
        inodes = {
            path: (facts.pop("inode"), mounted[path].pop("inode"))
            for path, facts in local.items()
            if path in mounted
        }
        for path in inodes:
            times_ns = [int(str(side[path]["mtime_ns"])) for side in (local, mounted)]
            if min(times_ns) >= EXPLICIT_BEFORE_NS:
                mounted[path]["mtime_ns"] = local[path]["mtime_ns"]
            if local[path]["type"] == "d" and len(self._views) > 1:
                mounted[path] |= {what: local[path][what] for what in _UNSETTLED}
        lines = list(trees.differences(local, mounted))
        if lines:
            self._fail("\n".join(["the trees differ:", *lines]))
        for path, numbers in inodes.items():
            self._identify(repr(path), local=numbers[0], mounted=numbers[1])

    def remove(self) -> None:
        """Close everything and remove the trees."""
        opened = [descriptor for number in self._open for descriptor in self._descriptors[number]]
        for descriptor in [*opened, *self._pins, *self._mounted, self._local]:
            os.close(descriptor)
        for root in self._roots:
            shutil.rmtree(root, ignore_errors=self.difference is not None)

    def _is_promised(self, name: str, arguments: tuple[Any, ...]) -> bool:
        """Whether a mount must do what a local disk does."""
        if name in ("open", "read_file", "write_file"):
            kind = self._kind(arguments[0], follow=True)
            if kind == stat.S_IFCHR:
                return False  # mounts are nodev
            if kind == stat.S_IFIFO:  # not read through one node what was written through another
                return name == "read_file" or arguments[1] & os.O_ACCMODE == os.O_RDONLY
            return name != "open" or kind != stat.S_IFDIR or len(self._views) == 1
        if name in _WRITING and len(self._views) > 1:
            # A node takes set-id bits away that it knew of when it opened the file, not what others set since.
            number = arguments[0].number
            descriptor, opener = self._descriptors[number][1], self._openers[number][1]
            return opener == ROOT or not os.fstat(descriptor).st_mode & (stat.S_ISUID | stat.S_ISGID)
        return True

    def _kind(self, path: str, *, follow: bool) -> int:
        """The type of a file, 0 where there is none."""
        with _inside(self._local), suppress(OSError):
            return stat.S_IFMT(os.stat(path, follow_symlinks=follow).st_mode)
        return 0

    def _pin(self, file: Any, *, follow: bool) -> None:
        """Keep the local file, so that its inode number is not given to another."""
        flags = os.O_PATH if follow or isinstance(file, Descriptor) else os.O_PATH | os.O_NOFOLLOW
        own = self._own(1, file)
        with _inside(self._local):
            self._pins.append(os.open(f"/proc/self/fd/{own}" if isinstance(own, int) else own, flags))

    def _identify(self, name: str, *, local: object, mounted: object) -> None:
        """The same file has the same inode number on all nodes and for all its life, and no other file has it."""
        known = self._inodes.setdefault(local, mounted)
        if known != mounted:
            self._fail(f"the inode number of {name} was {known}, and is {mounted}")
        if list(self._inodes.values()).count(mounted) > 1:
            self._fail(f"{name} has the inode number of another file, {mounted}")

    def _settled(self, result: Any) -> Any:
        """*result* without what may reach other nodes later."""
        if len(self._views) > 1 and isinstance(result, dict) and str(result["mode"]).startswith("d"):
            return {what: value for what, value in result.items() if what not in _UNSETTLED}
        return result

    def _own(self, side: int, argument: Any) -> Any:
        match argument:
            case Descriptor():
                return self._descriptors[argument.number][side]
            case Filling():
                return bytes([argument.letter]) * argument.length
        return argument

    def _fail(self, what: str) -> None:
        self.difference = Difference(what, self._calls)
        raise self.difference


def _directory(root: Path) -> int:
    return os.open(root / _INNER, os.O_RDONLY | os.O_DIRECTORY)


@contextmanager
def _inside(folder: int) -> Iterator[None]:
    """Paths of the block start here: somebody without privilege need not reach what is above."""
    before = os.getcwd()
    os.fchdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _facts(root: Path) -> dict[bytes, trees.Facts]:
    """What trees are compared by, and what a copy need not keep: links, extended attributes, inode numbers."""
    found = trees.facts(root)
    for path, facts in found.items():
        full = os.path.join(os.fsencode(root), path)
        status = os.lstat(full)
        names = twin_calls.listxattr(os.fsdecode(full), follow_symlinks=False)
        facts["links"] = status.st_nlink
        facts["inode"] = status.st_ino
        facts["attributes"] = {name: os.getxattr(full, name, follow_symlinks=False) for name in names}
        if facts["type"] == "d":
            with os.scandir(full) as entries:
                wrong = [entry.name for entry in entries if entry.inode() != os.lstat(entry.path).st_ino]
            facts["entries listed with another inode number"] = wrong
    return found


def reduced(difference: Difference, fresh: Callable[[], Twins]) -> Difference:
    """The same or another difference after as few calls as leaving out single ones leads to."""
    position = len(difference.calls) - 1
    while position >= 0:
        calls = difference.calls[:position] + difference.calls[position + 1 :]
        found = _repeat(calls, fresh())
        if found is not None:
            difference = found
        position = min(position, len(difference.calls)) - 1
    return difference


def _repeat(calls: list[Call], twins: Twins) -> Difference | None:
    descriptors: dict[Any, Any] = {}
    try:
        for call in calls:
            if any(isinstance(given, Descriptor) and given not in descriptors for given in call.arguments):
                continue  # the call that opened it is left out
            given = [
                descriptors.get(given, given) if isinstance(given, Descriptor) else given
                for given in call.arguments
            ]
            result = twins.call(
                call.name, *given, node=call.node, user=call.user, umask=call.umask, **call.options
            )
            if isinstance(call.result, Descriptor) and isinstance(result, Descriptor):
                descriptors[call.result] = result
        twins.compare()
    except Difference as difference:
        return difference
    finally:
        twins.remove()
    return None
