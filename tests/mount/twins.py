"""The same system calls on two directory trees, one on a mount and one on a local disk, and what differs.

A difference is reduced to a short script of calls, by leaving out one call after the other.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.mount import trees

# Times before it were set by a test, and must be the same; later ones are of the moment of a call.
EXPLICIT_BEFORE_NS: Final = 1_500_000_000 * 10**9


class Descriptor(NamedTuple):
    """Number of a file that was opened in both trees."""

    number: int


class Filling(NamedTuple):
    """Data to write: one letter, repeated."""

    letter: int
    length: int


class Failure(NamedTuple):
    """How a call failed."""

    name: str


class Call(NamedTuple):
    """One call that was made in both trees, and what the local disk answered."""

    name: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    node: int
    result: Any


class Difference(AssertionError):
    """The trees or the results of a call differ."""

    def __init__(self, what: str, calls: list[Call]) -> None:
        script = "\n".join(map(_line, calls))
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
        self._open: set[int] = set()
        self._calls: list[Call] = []
        self.difference: Difference | None = None
        for root in self._roots:
            root.mkdir()

    def call(self, name: str, *arguments: Any, node: int = 0, **options: Any) -> Any:
        """`os.name(*arguments)` in both trees: strings are paths below the roots. What both returned.

        In the mounted tree it is made on *node*; descriptors only on the first.
        """
        function = _FUNCTIONS.get(name) or getattr(os, name)
        mounted = self._settled(self._do(0, self._views[node], function, arguments, options))
        local = self._settled(self._do(1, self._roots[1], function, arguments, options))
        if name == "open" and not isinstance(mounted, Failure) and not isinstance(local, Failure):
            self._open.add(len(self._descriptors))
            self._descriptors.append((mounted, local))
            mounted = local = Descriptor(len(self._descriptors) - 1)
        if name == "close":
            self._open.discard(arguments[0].number)
        self._calls.append(Call(name, arguments, options, node, local))
        if mounted != local:
            self._fail(f"the mount answers {_shown(mounted)}, a local disk {_shown(local)}")
        return local

    def existing(self) -> list[str]:
        """Everything there is, as paths below the roots."""
        top = self._roots[1]
        folders = [(os.path.relpath(folder, top), files + below) for folder, below, files in os.walk(top)]
        return sorted(os.path.normpath(os.path.join(folder, name)) for folder, names in folders for name in names)

    def compare(self) -> None:
        """Both trees hold the same."""
        for view in self._views:
            self._compare_with(view)

    def _compare_with(self, view: Path) -> None:
        mounted, local = trees.facts(view), trees.facts(self._roots[1])
        for name in local.keys() & mounted.keys():
            unsettled = len(self._views) > 1 and local[name]["type"] == "d"
            times_ns = [int(str(side[name]["mtime_ns"])) for side in (local, mounted)]
            if unsettled or min(times_ns) >= EXPLICIT_BEFORE_NS:
                mounted[name]["mtime_ns"] = local[name]["mtime_ns"]
        lines = list(trees.differences(local, mounted))
        if lines:
            self._fail("\n".join(["the trees differ:", *lines]))

    def remove(self) -> None:
        """Close everything and remove the trees."""
        for number in self._open:
            for descriptor in self._descriptors[number]:
                os.close(descriptor)
        for root in self._roots:
            shutil.rmtree(root, ignore_errors=self.difference is not None)

    def _settled(self, result: Any) -> Any:
        """*result* without what may reach other nodes later."""
        if len(self._views) > 1 and isinstance(result, dict) and str(result["mode"]).startswith("d"):
            return {what: value for what, value in result.items() if what not in ("links", "mtime_ns")}
        return result

    def _do(self, side: int, root: Path, function: Callable[..., Any], arguments: Any, options: Any) -> Any:
        try:
            return function(*(self._own(side, root, argument) for argument in arguments), **options)
        except OSError as error:
            return Failure(errno.errorcode.get(error.errno or 0, str(error)))

    def _own(self, side: int, root: Path, argument: Any) -> Any:
        match argument:
            case str():
                return os.path.join(root, argument)
            case Descriptor():
                return self._descriptors[argument.number][side]
            case Filling():
                return bytes([argument.letter]) * argument.length
        return argument

    def _fail(self, what: str) -> None:
        self.difference = Difference(what, self._calls)
        raise self.difference


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
            arguments = [descriptors.get(given, given) for given in call.arguments]
            if any(
                isinstance(argument, Descriptor) and argument not in descriptors for argument in call.arguments
            ):
                continue  # the call that opened it is left out
            result = twins.call(call.name, *arguments, node=call.node, **call.options)
            if isinstance(call.result, Descriptor) and isinstance(result, Descriptor):
                descriptors[call.result] = result
        twins.compare()
    except Difference as difference:
        return difference
    finally:
        twins.remove()
    return None


def _line(call: Call) -> str:
    shown = [_argument(call.name, position, argument) for position, argument in enumerate(call.arguments)]
    shown += [f"{option}={value!r}" for option, value in call.options.items()]
    line = f"os.{call.name}({', '.join(shown)})"
    if isinstance(call.result, Descriptor):
        line = f"fd{call.result.number} = {line}"
    if isinstance(call.result, Failure):
        line = f"with suppress(OSError): {line}  # {call.result.name}"
    return f"{line}  # on node {call.node}" if call.node else line


def _argument(name: str, position: int, argument: Any) -> str:
    match argument:
        case Descriptor():
            return f"fd{argument.number}"
        case Filling():
            return f"{bytes([argument.letter])!r} * {argument.length}"
        case int() if name in ("open", "write_file") and position == 1:
            return " | ".join(
                [_ACCESS[argument & os.O_ACCMODE], *(flag for flag in _FLAGS if argument & _FLAGS[flag])]
            )
        case int() if name in ("open", "mkdir", "chmod", "fchmod"):
            return oct(argument)
    return repr(argument)


_ACCESS: Final = ("os.O_RDONLY", "os.O_WRONLY", "os.O_RDWR")
_FLAGS: Final = {
    "os.O_CREAT": os.O_CREAT,
    "os.O_EXCL": os.O_EXCL,
    "os.O_TRUNC": os.O_TRUNC,
    "os.O_APPEND": os.O_APPEND,
    "os.O_NOFOLLOW": os.O_NOFOLLOW,
    "os.O_DIRECTORY": os.O_DIRECTORY,
}


def _shown(result: Any) -> str:
    if isinstance(result, bytes) and len(result) > 80:
        return f"{len(result)} bytes, {result[:40]!r}...{result[-40:]!r}"
    return repr(result)


def _attributes(status: os.stat_result) -> dict[str, object]:
    """What must agree. The sizes of directories mean something else on every file system."""
    found: dict[str, object] = {"mode": stat.filemode(status.st_mode), "owner": (status.st_uid, status.st_gid)}
    found["links"] = status.st_nlink
    found["mtime_ns"] = status.st_mtime_ns if status.st_mtime_ns < EXPLICIT_BEFORE_NS else "now"
    if not stat.S_ISDIR(status.st_mode):
        found["size"] = status.st_size
    return found


def _utime(path: str, ns: tuple[int, int], follow_symlinks: bool = True) -> tuple[int, int]:
    os.utime(path, ns=ns, follow_symlinks=follow_symlinks)
    found = os.stat(path, follow_symlinks=follow_symlinks)
    return found.st_atime_ns, found.st_mtime_ns


def _write_file(path: str, flags: int, data: bytes) -> int:
    descriptor = os.open(path, flags, 0o644)
    try:
        return os.write(descriptor, data)
    finally:
        os.close(descriptor)


def _read_file(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()


_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "listdir": lambda path: sorted(os.listdir(path)),
    "stat": lambda path: _attributes(os.stat(path)),
    "lstat": lambda path: _attributes(os.lstat(path)),
    "fstat": lambda descriptor: _attributes(os.fstat(descriptor)),
    "utime": _utime,
    "write_file": _write_file,
    "read_file": _read_file,
    "symlink": lambda target, path: os.symlink(os.fsdecode(target), path),
}
