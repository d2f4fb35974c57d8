"""Random system calls on a mount and on a local disk have the same results, errnos, contents and attributes.

The examples are the same in every run and take about half a minute. For more and others:

    RANDOM_OPERATIONS_EXAMPLES=5000 pytest tests/mount/test_random_operations.py

A failure ends in a short script that leads to it.
"""

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import multiple, rule

from tests.mount import random_calls
from tests.mount.conftest import EMBEDDED, TLS, Both
from tests.mount.random_calls import Choice, FileCalls, new_twins, run_examples
from tests.mount.twin_calls import Descriptor, Filling, User
from tests.mount.twins import Difference, Twins, reduced


class Calls(FileCalls):
    """One example: calls by path, and with open files."""

    descriptors = FileCalls.descriptors

    @rule(
        target=descriptors,
        path=st.one_of(random_calls.paths, random_calls.places),
        flags=random_calls.flags,
        mode=random_calls.modes,
        user=random_calls.users,
        umask=random_calls.umasks,
    )
    def open(self, path: Choice, flags: int, mode: int, user: User, umask: int) -> Any:
        result = self.twins.call("open", self.path(path), flags, mode, user=user, umask=umask)
        return result if isinstance(result, Descriptor) else multiple()

    # --- contents

    @rule(descriptor=descriptors, length=random_calls.lengths)
    def read(self, descriptor: Descriptor, length: int) -> None:
        self.twins.call("read", descriptor, length)

    @rule(descriptor=descriptors, length=random_calls.lengths, offset=random_calls.offsets)
    def pread(self, descriptor: Descriptor, length: int, offset: int) -> None:
        self.twins.call("pread", descriptor, length, offset)

    @rule(descriptor=descriptors, data=random_calls.data)
    def write(self, descriptor: Descriptor, data: Filling) -> None:
        self.twins.call("write", descriptor, data)
        self.twins.call("fstat", descriptor)

    @rule(descriptor=descriptors, data=random_calls.data, offset=random_calls.offsets)
    def pwrite(self, descriptor: Descriptor, data: Filling, offset: int) -> None:
        self.twins.call("pwrite", descriptor, data, offset)
        self.twins.call("fstat", descriptor)

    @rule(
        source=descriptors,
        into=descriptors,
        length=random_calls.lengths,
        places=st.tuples(random_calls.offsets, random_calls.offsets),
    )
    def copy_file_range(self, source: Descriptor, into: Descriptor, length: int, places: tuple[int, int]) -> None:
        self.twins.call("copy_file_range", source, into, length, *places)
        self.twins.call("fstat", into)

    @rule(source=descriptors, into=descriptors, length=random_calls.lengths, offset=random_calls.offsets)
    def sendfile(self, source: Descriptor, into: Descriptor, length: int, offset: int) -> None:
        self.twins.call("sendfile", into, source, offset, length)
        self.twins.call("fstat", into)

    @rule(
        descriptor=descriptors,
        offset=random_calls.offsets,
        whence=st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END]),
    )
    def lseek(self, descriptor: Descriptor, offset: int, whence: int) -> None:
        if not str(self.twins.call("fstat", descriptor)["mode"]).startswith("d"):
            self.twins.call("lseek", descriptor, offset, whence)

    @rule(descriptor=descriptors, size=random_calls.offsets, user=random_calls.users)
    def ftruncate(self, descriptor: Descriptor, size: int, user: User) -> None:
        self.twins.call("ftruncate", descriptor, size, user=user)
        self.twins.call("fstat", descriptor)

    @rule(descriptor=descriptors)
    def fsync(self, descriptor: Descriptor) -> None:
        self.twins.call("fsync", descriptor)

    # --- attributes

    @rule(descriptor=descriptors, mode=random_calls.modes, user=random_calls.users)
    def fchmod(self, descriptor: Descriptor, mode: int, user: User) -> None:
        self.twins.call("fchmod", descriptor, mode, user=user)
        self.twins.call("fstat", descriptor)

    @rule(descriptor=descriptors, uid=random_calls.owners, gid=random_calls.owners, user=random_calls.users)
    def fchown(self, descriptor: Descriptor, uid: int, gid: int, user: User) -> None:
        self.twins.call("fchown", descriptor, uid, gid, user=user)
        self.twins.call("fstat", descriptor)

    @rule(
        descriptor=descriptors,
        name=random_calls.xattr_names,
        value=random_calls.xattr_values,
        how=random_calls.xattr_flags,
        again=st.sampled_from(["getxattr", "removexattr"]),
    )
    def fsetxattr(self, descriptor: Descriptor, name: bytes, value: Filling, how: int, again: str) -> None:
        self.twins.call("setxattr", descriptor, name, value, how)
        self.twins.call(again, descriptor, name)
        self.twins.call("listxattr", descriptor)


@pytest.mark.limit_s(3600)
@pytest.mark.parametrize(
    ("file_system", "examples"),
    [(2, 120), (EMBEDDED, 40), (TLS, 40)],
    ids=["2-daemons", EMBEDDED, TLS],
    indirect=["file_system"],
)
def test_random_calls_have_the_same_results(examples: int, both: Both) -> None:
    run_examples(Calls, examples, lambda: new_twins(both))


def test_a_difference_is_shown_as_a_short_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename that does nothing in one of the trees is found, and what has nothing to do with it left out."""
    rename = os.rename

    def broken(old: str, new: str) -> None:
        if "mounted" in os.getcwd():  # paths are relative
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
