"""Random system calls on mounts and on a local disk have the same results, errnos, contents and attributes.

The examples are the same in every run and take about a minute. For more and others:

    RANDOM_OPERATIONS_EXAMPLES=5000 pytest tests/mount/test_random_operations.py

A failure ends in a short script that leads to it.
"""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest
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

from tests.mount.conftest import Both, Place
from tests.mount.sample_tree import LONGEST_NAME
from tests.mount.twins import Descriptor, Difference, Failure, Filling, Twins, reduced

EXAMPLES: Final = int(os.environ.get("RANDOM_OPERATIONS_EXAMPLES", "0"))
_MIB: Final = 1 << 20

# A path is a text, or a number that chooses one of those that exist.
_names = st.sampled_from(["a", "b", "c", "d"])
_new_paths = st.lists(_names, min_size=1, max_size=3).map("/".join)
_odd_names = st.sampled_from([LONGEST_NAME, LONGEST_NAME + "n", "odd \udcff\n:\\", "."])
_paths: SearchStrategy[int | str] = st.integers(0, 14).flatmap(
    lambda kind: _odd_names if kind == 14 else _new_paths if kind > 8 else st.integers(0, 30)
)
Choice = int | str
_targets = st.sampled_from([b"a", b"b", b"a/b", b"c/a", b".", b"missing"])
_modes = st.sampled_from([0o644, 0o600, 0o755, 0o400, 0o1777, 0o2755, 0o6755, 0])
_flags = st.tuples(
    st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR]),
    st.sampled_from([0, os.O_CREAT, os.O_CREAT, os.O_CREAT | os.O_EXCL]),
    st.sampled_from([0, 0, 0, os.O_TRUNC, os.O_APPEND, os.O_NOFOLLOW, os.O_DIRECTORY]),
).map(sum)
# About pages, about chunks, and in between.
_offsets = st.sampled_from([0, 0, 1, 100, 4095, 4096, 5000, 65_536, _MIB - 1, _MIB, _MIB + 5, 2 * _MIB + 3])
_lengths = st.sampled_from([0, 1, 7, 100, 4096, 5000, 65_537, _MIB, _MIB + 9])
_data = st.builds(Filling, st.integers(97, 122), _lengths)
_times_ns = st.integers(0, 1_400_000_000 * 10**9)
_owners = st.sampled_from([-1, 0, 1, 65_534, 1_000_000])
_nodes = st.integers(0, 1)
_numbers = itertools.count()


def new_twins(both: Both, *others: Path) -> Twins:
    """Two new directories to make the same calls in.

    They have the same paths in every example, so that every name is on the same daemon again in a repetition.
    """
    for side in both:
        if (side / "tree").exists():  # an earlier example ended in a tree that cannot be removed
            (side / "tree").rename(side / f"broken-{next(_numbers)}")
    return Twins(both.mounted / "tree", both.local / "tree", *(other / "tree" for other in others))


def chosen(twins: Twins, choice: Choice) -> str:
    """The path that *choice* means in the tree as it is now."""
    if isinstance(choice, str):
        return choice
    existing = twins.existing()
    return existing[choice % len(existing)] if existing else "a"


def end(twins: Twins) -> None:
    """Compare the trees after an example without a difference, and remove them."""
    try:
        if twins.difference is None:
            twins.compare()
    finally:
        twins.remove()
        if twins.difference is not None:
            Calls.found.append(twins.difference)


class Calls(RuleBasedStateMachine):
    """One example: a sequence of calls in two new directories."""

    descriptors: Bundle[Descriptor] = Bundle("descriptors")

    both: Both
    there: Path
    found: ClassVar[list[Difference]] = []

    def __init__(self) -> None:
        super().__init__()
        self.twins = new_twins(self.both)

    @initialize(target=descriptors, filled=st.integers(0, 4))
    def start(self, filled: int) -> Any:
        """Most examples start with something to work on."""
        if not filled:
            return multiple()
        for folder in ("a", "b", "a/b", "a/b/c", "c"):
            self.twins.call("mkdir", folder, 0o755)
        files = []
        for path in ("a/c", "a/b/d", "a/b/c/a", "d"):
            files.append(self.twins.call("open", path, os.O_CREAT | os.O_RDWR, 0o644))
            self.twins.call("write", files[-1], Filling(120, 5000 * len(files)))
        return multiple(*files[:3])

    def teardown(self) -> None:
        end(self.twins)

    def _path(self, choice: Choice) -> str:
        return chosen(self.twins, choice)

    # --- names

    @rule(path=_paths, mode=_modes)
    def mkdir(self, path: Choice, mode: int) -> None:
        self.twins.call("mkdir", self._path(path), mode)

    @rule(path=_paths)
    def rmdir(self, path: Choice) -> None:
        self.twins.call("rmdir", self._path(path))

    @rule(path=_paths)
    def unlink(self, path: Choice) -> None:
        self.twins.call("unlink", self._path(path))

    @rule(old=_paths, new=_paths)
    def rename(self, old: Choice, new: Choice) -> None:
        source, target = self._path(old), self._path(new)
        self.twins.call("rename", source, target)
        self.twins.call("lstat", source)
        self.twins.call("lstat", target)

    @rule(content=_targets, path=_paths)
    def symlink(self, content: bytes, path: Choice) -> None:
        self.twins.call("symlink", content, self._path(path))

    @rule(path=_paths)
    def readlink(self, path: Choice) -> None:
        self.twins.call("readlink", self._path(path))

    @rule(path=_paths)
    def look(self, path: Choice) -> None:
        where = self._path(path)
        self.twins.call("listdir", where)
        self.twins.call("stat", where)
        self.twins.call("lstat", where)

    # --- attributes

    @rule(path=_paths, mode=_modes)
    def chmod(self, path: Choice, mode: int) -> None:
        self.twins.call("chmod", self._path(path), mode)

    @rule(path=_paths, uid=_owners, gid=_owners, follow=st.booleans())
    def chown(self, path: Choice, uid: int, gid: int, follow: bool) -> None:
        self.twins.call("chown", self._path(path), uid, gid, follow_symlinks=follow)

    @rule(path=_paths, atime_ns=_times_ns, mtime_ns=_times_ns, follow=st.booleans())
    def utime(self, path: Choice, atime_ns: int, mtime_ns: int, follow: bool) -> None:
        self.twins.call("utime", self._path(path), ns=(atime_ns, mtime_ns), follow_symlinks=follow)

    @rule(path=_paths, size=st.one_of(_offsets, st.just(-1)))
    def truncate(self, path: Choice, size: int) -> None:
        self.twins.call("truncate", self._path(path), size)

    # --- open files

    @rule(target=descriptors, path=_paths, flags=_flags, mode=_modes)
    def open(self, path: Choice, flags: int, mode: int) -> Any:
        result = self.twins.call("open", self._path(path), flags, mode)
        return multiple() if isinstance(result, Failure) else result

    @rule(descriptor=consumes(descriptors))
    def close(self, descriptor: Descriptor) -> None:
        self.twins.call("close", descriptor)

    @rule(descriptor=descriptors, length=_lengths)
    def read(self, descriptor: Descriptor, length: int) -> None:
        self.twins.call("read", descriptor, length)

    @rule(descriptor=descriptors, length=_lengths, offset=_offsets)
    def pread(self, descriptor: Descriptor, length: int, offset: int) -> None:
        self.twins.call("pread", descriptor, length, offset)

    @rule(descriptor=descriptors, data=_data)
    def write(self, descriptor: Descriptor, data: Filling) -> None:
        self.twins.call("write", descriptor, data)
        self.twins.call("fstat", descriptor)

    @rule(descriptor=descriptors, data=_data, offset=_offsets)
    def pwrite(self, descriptor: Descriptor, data: Filling, offset: int) -> None:
        self.twins.call("pwrite", descriptor, data, offset)
        self.twins.call("fstat", descriptor)

    @rule(descriptor=descriptors, offset=_offsets, whence=st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END]))
    def lseek(self, descriptor: Descriptor, offset: int, whence: int) -> None:
        if "d" not in str(self.twins.call("fstat", descriptor)["mode"])[0]:
            self.twins.call("lseek", descriptor, offset, whence)

    @rule(descriptor=descriptors, size=_offsets)
    def ftruncate(self, descriptor: Descriptor, size: int) -> None:
        self.twins.call("ftruncate", descriptor, size)
        self.twins.call("fstat", descriptor)

    @rule(descriptor=descriptors)
    def fsync(self, descriptor: Descriptor) -> None:
        self.twins.call("fsync", descriptor)

    @rule(descriptor=descriptors, mode=_modes)
    def fchmod(self, descriptor: Descriptor, mode: int) -> None:
        self.twins.call("fchmod", descriptor, mode)
        self.twins.call("fstat", descriptor)


class CallsOnTwoNodes(RuleBasedStateMachine):
    """One example: every call on one of two nodes. Files are opened, used and closed in one step."""

    def __init__(self) -> None:
        super().__init__()
        self.twins = new_twins(Calls.both, Calls.there)

    def teardown(self) -> None:
        end(self.twins)

    @rule(path=_paths, mode=_modes, node=_nodes)
    def mkdir(self, path: Choice, mode: int, node: int) -> None:
        self.twins.call("mkdir", chosen(self.twins, path), mode, node=node)

    @rule(path=_paths, node=_nodes, flags=_flags, data=_data)
    def write(self, path: Choice, node: int, flags: int, data: Filling) -> None:
        self.twins.call("write_file", chosen(self.twins, path), flags, data, node=node)

    @rule(path=_paths, node=_nodes)
    def read(self, path: Choice, node: int) -> None:
        self.twins.call("read_file", chosen(self.twins, path), node=node)

    @rule(path=_paths, node=_nodes, content=_targets)
    def symlink(self, path: Choice, node: int, content: bytes) -> None:
        self.twins.call("symlink", content, chosen(self.twins, path), node=node)

    @rule(path=_paths, node=_nodes, call=st.sampled_from(["rmdir", "unlink", "readlink"]))
    def remove(self, path: Choice, node: int, call: str) -> None:
        self.twins.call(call, chosen(self.twins, path), node=node)

    @rule(path=_paths, node=_nodes, call=st.sampled_from(["listdir", "stat", "lstat"]))
    def look(self, path: Choice, node: int, call: str) -> None:
        self.twins.call(call, chosen(self.twins, path), node=node)

    @rule(old=_paths, new=_paths, node=_nodes)
    def rename(self, old: Choice, new: Choice, node: int) -> None:
        source, target = chosen(self.twins, old), chosen(self.twins, new)
        self.twins.call("rename", source, target, node=node)
        for path in (source, target):
            self.twins.call("lstat", path, node=1 - node)

    @rule(path=_paths, mode=_modes, node=_nodes)
    def chmod(self, path: Choice, mode: int, node: int) -> None:
        self.twins.call("chmod", chosen(self.twins, path), mode, node=node)

    @rule(path=_paths, times_ns=st.tuples(_times_ns, _times_ns), node=_nodes)
    def utime(self, path: Choice, times_ns: tuple[int, int], node: int) -> None:
        self.twins.call("utime", chosen(self.twins, path), ns=times_ns, node=node)

    @rule(path=_paths, size=_offsets, node=_nodes)
    def truncate(self, path: Choice, size: int, node: int) -> None:
        self.twins.call("truncate", chosen(self.twins, path), size, node=node)


def run_examples(machine: type[RuleBasedStateMachine], examples: int, fresh: Callable[[], Twins]) -> None:
    """Run them; a difference is reduced by repeating its calls with twins that *fresh* makes."""
    Calls.found.clear()
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
        if not Calls.found:
            raise
        raise reduced(Calls.found[0], fresh) from None


@pytest.mark.limit_s(3600)
@pytest.mark.parametrize("file_system", [2], ids=["2-daemons"], indirect=True)
def test_random_calls_have_the_same_results(both: Both) -> None:
    Calls.both = both
    run_examples(Calls, 250, lambda: new_twins(both))


@pytest.mark.limit_s(3600)
@pytest.mark.parametrize("file_system", [4], ids=["4-daemons"], indirect=True)
def test_random_calls_on_two_nodes_have_the_same_results(both: Both, place: Place) -> None:
    Calls.both, Calls.there = both, place.there
    run_examples(CallsOnTwoNodes, 150, lambda: new_twins(both, place.there))


def test_a_difference_is_shown_as_a_short_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename that does nothing in one of the trees is found, and what has nothing to do with it left out."""
    rename = os.rename

    def broken(old: str, new: str) -> None:
        if "mounted" in old:
            os.stat(old)
        else:
            rename(old, new)

    monkeypatch.setattr(os, "rename", broken)
    numbers = itertools.count()

    def fresh() -> Twins:
        number = next(numbers)
        return Twins(tmp_path / f"mounted-{number}", tmp_path / f"local-{number}")

    twins = fresh()
    twins.call("mkdir", "b", 0o755)
    twins.call("rmdir", "c")
    file = twins.call("open", "a", os.O_CREAT | os.O_RDWR, 0o644)
    twins.call("pread", file, 10, 0)
    twins.call("rename", "a", "c")
    twins.call("pread", file, 10, 0)
    with pytest.raises(Difference) as caught:
        twins.compare()
    twins.remove()
    assert str(reduced(caught.value, fresh)).splitlines() == [
        "the trees differ:",
        "b'a' should not be there",
        "b'c' is missing",
        "",
        "after this script in an empty directory:",
        "",
        "fd0 = os.open('a', os.O_RDWR | os.O_CREAT, 0o644)",
        "os.rename('a', 'c')",
    ]
