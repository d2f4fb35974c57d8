"""Examples for the tests with random calls: what is drawn, the calls by path, and how examples are run."""

import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    rule,
    run_state_machine_as_test,
)
from hypothesis.strategies import SearchStrategy

from tests.mount.conftest import Both
from tests.mount.sample_tree import LONGEST_NAME
from tests.mount.twin_calls import (
    EXCHANGE,
    NOW_NS,
    OMIT_NS,
    ROOT,
    SOMEBODY,
    SOMEBODY_ELSE,
    USUAL_UMASK,
    Descriptor,
    Filling,
    User,
)
from tests.mount.twins import Difference, Twins, reduced

EXAMPLES: Final = int(os.environ.get("RANDOM_OPERATIONS_EXAMPLES", "0"))
_MIB: Final = 1 << 20
_NOREPLACE: Final = 1


class Existing(NamedTuple):
    """Path of something that exists, chosen by number, and what follows it."""

    number: int
    suffix: str


class Entry(NamedTuple):
    """A name, in an existing directory chosen by number."""

    directory: int
    name: str


Choice = str | Existing | Entry
_choices = st.integers(0, 30)
_names = st.sampled_from(["a", "b", "c", "d", "e", "f"])
_existing = st.builds(Existing, _choices, st.just(""))
_suffixed = st.builds(Existing, _choices, st.sampled_from(["/", "/.", "/..", "//a", "/../a"]))
_entries = st.builds(Entry, _choices, _names)
_odd = st.sampled_from(
    [LONGEST_NAME, LONGEST_NAME + "n", "odd \udcff\n:\\", ".", "..", "./" * 2048 + "a", "new/", "a/b/c/d/e"]
)
# Of what is there, most often, and of what may be made.
paths: SearchStrategy[Choice] = st.integers(0, 29).flatmap(
    lambda kind: _existing if kind < 23 else _entries if kind < 27 else _suffixed if kind < 29 else _odd
)
places: SearchStrategy[Choice] = st.integers(0, 29).flatmap(
    lambda kind: _entries if kind < 21 else _existing if kind < 27 else _suffixed if kind < 28 else _odd
)
_targets = st.sampled_from([b"a", b"b", b"a/b", b"c/a", b"d", b".", b"missing", b"a/"])
modes = st.sampled_from([0o644, 0o600, 0o755, 0o777, 0o666, 0o400, 0o1777, 0o2755, 0o2777, 0o6755, 0])
_kinds = st.sampled_from([stat.S_IFIFO, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFREG])
_null = os.makedev(1, 3)
flags = st.tuples(
    st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR]),
    st.sampled_from([0, os.O_CREAT, os.O_CREAT, os.O_CREAT | os.O_EXCL]),
    st.sampled_from([0, 0, 0, os.O_TRUNC, os.O_APPEND, os.O_NOFOLLOW, os.O_DIRECTORY]),
).map(sum)
# About pages, about chunks, and in between.
offsets = st.sampled_from([0, 0, 1, 100, 4095, 4096, 5000, 65_536, _MIB - 1, _MIB, _MIB + 5, 2 * _MIB + 3])
_sizes = st.one_of(offsets, offsets, offsets, st.just(-1))
lengths = st.sampled_from([0, 1, 7, 100, 4096, 5000, 65_537, _MIB, _MIB + 9])
data = st.builds(Filling, st.integers(97, 122), lengths)
times_ns = st.integers(0, 1_400_000_000 * 10**9)
_special_times_ns = st.sampled_from([NOW_NS, OMIT_NS, 10**18])
owners = st.sampled_from([-1, -1, 0, 1000, 2000, 1_000_000])
users = st.sampled_from([ROOT, ROOT, ROOT, SOMEBODY, SOMEBODY_ELSE])
umasks = st.sampled_from([USUAL_UMASK, USUAL_UMASK, 0, 0o077])
nodes = st.integers(0, 1)
# All that are valid, with the largest values, fit in the 4 KiB that ext4 has for a file.
xattr_names = st.sampled_from(
    [b"user.a", b"user.a", b"trusted.a", b"user." + b"n" * 250, b"user." + b"n" * 251, b"plain", b"user."]
)
xattr_values = st.builds(Filling, st.integers(97, 122), st.sampled_from([0, 5, 1024]))
xattr_flags = st.sampled_from([0, 0, os.XATTR_CREATE, os.XATTR_REPLACE])
_numbers = itertools.count()


def new_twins(both: Both, *others: Path) -> Twins:
    """Two new directories to make the same calls in.

    They have the same paths in every example, so that every name is on the same daemon again in a repetition.
    """
    for side in both:
        if (side / "tree").exists():  # an earlier example ended in a tree that cannot be removed
            (side / "tree").rename(side / f"broken-{next(_numbers)}")
    return Twins(both.mounted / "tree", both.local / "tree", *(other / "tree" for other in others))


class PathCalls(RuleBasedStateMachine):
    """One example: a sequence of calls in two new directories, here those that are given paths."""

    fresh: ClassVar[Callable[[], Twins]]
    found: ClassVar[list[Difference]] = []

    def __init__(self) -> None:
        super().__init__()
        self.twins = type(self).fresh()

    def teardown(self) -> None:
        try:
            if self.twins.difference is None:
                self.twins.compare()
        finally:
            self.twins.remove()
            if self.twins.difference is not None:
                self.found.append(self.twins.difference)

    def path(self, choice: Choice) -> str:
        """What *choice* means in the tree as it is now."""
        match choice:
            case Existing():
                existing = self.twins.existing()
                return (existing[choice.number % len(existing)] if existing else "a") + choice.suffix
            case Entry():
                folders = [*self.twins.existing(directories=True), "."]
                return os.path.normpath(os.path.join(folders[choice.directory % len(folders)], choice.name))
        return choice

    # --- names

    @rule(path=places, mode=modes, node=nodes, user=users, umask=umasks)
    def mkdir(self, path: Choice, mode: int, node: int, user: User, umask: int) -> None:
        self.twins.call("mkdir", self.path(path), mode, node=node, user=user, umask=umask)

    @rule(path=places, kind=_kinds, mode=modes, node=nodes, user=users, umask=umasks)
    def mknod(self, path: Choice, kind: int, mode: int, node: int, user: User, umask: int) -> None:
        device = _null if kind == stat.S_IFCHR else 0
        self.twins.call("mknod", self.path(path), kind | mode, device, node=node, user=user, umask=umask)

    @rule(content=_targets, path=places, node=nodes, user=users)
    def symlink(self, content: bytes, path: Choice, node: int, user: User) -> None:
        self.twins.call("symlink", content, self.path(path), node=node, user=user)

    @rule(path=paths, node=nodes, user=users, call=st.sampled_from(["unlink", "unlink", "rmdir"]))
    def remove(self, path: Choice, node: int, user: User, call: str) -> None:
        self.twins.call(call, self.path(path), node=node, user=user)

    @rule(old=paths, new=places, node=nodes, user=users)
    def rename(self, old: Choice, new: Choice, node: int, user: User) -> None:
        source, target = self.path(old), self.path(new)
        self.twins.call("rename", source, target, node=node, user=user)
        self._look_at(source, target, 1 - node)

    @rule(
        old=paths,
        new=st.one_of(paths, places),
        how=st.sampled_from([_NOREPLACE, EXCHANGE]),
        node=nodes,
        user=users,
    )
    def renameat2(self, old: Choice, new: Choice, how: int, node: int, user: User) -> None:
        source, target = self.path(old), self.path(new)
        self.twins.call("renameat2", source, target, how, node=node, user=user)
        self._look_at(source, target, 1 - node)

    @rule(old=paths, new=places, follow=st.booleans(), node=nodes, user=users)
    def link(self, old: Choice, new: Choice, follow: bool, node: int, user: User) -> None:
        source, target = self.path(old), self.path(new)
        self.twins.call("linkat", source, target, follow, node=node, user=user)
        self._look_at(source, target, 1 - node)

    def _look_at(self, source: str, target: str, node: int) -> None:
        for path in (source, target):
            self.twins.call("lstat", path, node=node)

    @rule(path=paths, node=nodes, user=users)
    def look(self, path: Choice, node: int, user: User) -> None:
        where = self.path(path)
        for call in ("listdir", "stat", "lstat", "readlink", "statvfs"):
            self.twins.call(call, where, node=node, user=user)

    # --- attributes

    @rule(path=paths, mode=st.integers(0, 7), node=nodes, user=users)
    def access(self, path: Choice, mode: int, node: int, user: User) -> None:
        self.twins.call("access", self.path(path), mode, node=node, user=user)

    @rule(path=paths, mode=modes, node=nodes, user=users)
    def chmod(self, path: Choice, mode: int, node: int, user: User) -> None:
        self.twins.call("chmod", self.path(path), mode, node=node, user=user)

    @rule(path=paths, uid=owners, gid=owners, follow=st.booleans(), node=nodes, user=users)
    def chown(self, path: Choice, uid: int, gid: int, follow: bool, node: int, user: User) -> None:
        self.twins.call("chown", self.path(path), uid, gid, node=node, user=user, follow_symlinks=follow)

    @rule(path=paths, times=st.tuples(times_ns, times_ns), follow=st.booleans(), node=nodes, user=users)
    def utime(self, path: Choice, times: tuple[int, int], follow: bool, node: int, user: User) -> None:
        self.twins.call("utimensat", self.path(path), *times, follow, node=node, user=user)

    @rule(path=paths, atime_ns=_special_times_ns, mtime_ns=_special_times_ns, node=nodes, user=users)
    def utime_now_or_not(self, path: Choice, atime_ns: int, mtime_ns: int, node: int, user: User) -> None:
        self.twins.call("utimensat", self.path(path), atime_ns, mtime_ns, True, node=node, user=user)

    @rule(path=paths, name=xattr_names, value=xattr_values, how=xattr_flags, node=nodes, user=users)
    def setxattr(self, path: Choice, name: bytes, value: Filling, how: int, node: int, user: User) -> None:
        self.twins.call("setxattr", self.path(path), name, value, how, node=node, user=user)

    @rule(path=paths, name=xattr_names, follow=st.booleans(), node=nodes, user=users, data=st.data())
    def xattr(self, path: Choice, name: bytes, follow: bool, node: int, user: User, data: Any) -> None:
        where = self.path(path)
        call = data.draw(st.sampled_from(["getxattr", "removexattr", "listxattr", "setxattr"]))
        arguments = {"listxattr": (), "setxattr": (name, Filling(97, 3), 0)}.get(call, (name,))
        self.twins.call(call, where, *arguments, node=node, user=user, follow_symlinks=follow)
        self.twins.call("listxattr", where, node=1 - node, user=user, follow_symlinks=follow)

    # --- contents

    @rule(path=paths, size=_sizes, node=nodes, user=users)
    def truncate(self, path: Choice, size: int, node: int, user: User) -> None:
        self.twins.call("truncate", self.path(path), size, node=node, user=user)

    @rule(path=st.one_of(paths, places), flags=flags, data=data, node=nodes, user=users, umask=umasks)
    def write_file(self, path: Choice, flags: int, data: Filling, node: int, user: User, umask: int) -> None:
        self.twins.call("write_file", self.path(path), flags, data, node=node, user=user, umask=umask)

    @rule(path=paths, node=nodes, user=users)
    def read_file(self, path: Choice, node: int, user: User) -> None:
        self.twins.call("read_file", self.path(path), node=node, user=user)


def start(twins: Twins) -> list[Any]:
    """Something to work on: directories, and open files of several owners."""
    for folder, mode in (("a", 0o755), ("b", 0o1777), ("a/b", 0o777), ("a/b/c", 0o2777), ("c", 0o700)):
        twins.call("mkdir", folder, mode, umask=0)
    twins.call("chown", "c", 1000, 1000)
    twins.call("chown", "a/b/c", 0, 2000)
    files: list[Any] = []
    for path, user in (("a/c", ROOT), ("a/b/d", SOMEBODY), ("a/b/c/a", SOMEBODY_ELSE), ("d", SOMEBODY)):
        files.append(twins.call("open", path, os.O_CREAT | os.O_RDWR, 0o664, user=user, node=len(files)))
        twins.call("write_and_sync", files[-1], Filling(120, 5000 * len(files)))
    return files


class FileCalls(PathCalls):
    """Calls by path, and what every machine does with open files."""

    descriptors: Bundle[Descriptor] = Bundle("descriptors")

    @initialize(target=descriptors, filled=st.integers(0, 4))
    def start(self, filled: int) -> Any:
        """Most examples start with something to work on."""
        return multiple(*start(self.twins)) if filled else multiple()

    @rule(descriptor=consumes(descriptors))
    def close(self, descriptor: Descriptor) -> None:
        self.twins.call("close", descriptor)

    @rule(descriptor=descriptors, path=places)
    def link_descriptor(self, descriptor: Descriptor, path: Choice) -> None:
        self.twins.call("link_descriptor", descriptor, self.path(path))
        self.twins.call("fstat", descriptor)

    @rule(descriptor=descriptors, times=st.tuples(times_ns, times_ns))
    def futimens(self, descriptor: Descriptor, times: tuple[int, int]) -> None:
        self.twins.call("futimens", descriptor, *times)


def run_examples(machine: type[PathCalls], examples: int, fresh: Callable[[], Twins]) -> None:
    """Run them on twins that *fresh* makes; a difference is reduced by repeating its calls."""
    machine.fresh = staticmethod(fresh)
    machine.found.clear()
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=EXAMPLES or examples,
                derandomize=not EXAMPLES,
                print_blob=bool(EXAMPLES),
                phases=[Phase.generate],  # a difference is reduced below, which is faster
                stateful_step_count=50,
                deadline=None,
                database=None,
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
    except Exception:
        if not machine.found:
            raise
        raise reduced(machine.found[0], fresh) from None
