"""Random system calls on two mounts of one file system have the same results as on one local disk.

The examples are the same in every run and take about half a minute. For more and others:

    RANDOM_OPERATIONS_EXAMPLES=5000 pytest tests/mount/test_random_nodes.py

Every call is on one of the nodes. Where something is promised only after `fsync`, or to who opens after that, as
docs/consistency.md says, the call includes that. A failure ends in a short script that leads to it.
"""

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import multiple, rule

from tests.mount import random_calls
from tests.mount.conftest import Both, Place
from tests.mount.random_calls import Choice, FileCalls, new_twins, run_examples
from tests.mount.twin_calls import Descriptor, Filling, User


class CallsOnTwoNodes(FileCalls):
    """One example: calls by path, and with files open on either node, whatever becomes of their names."""

    descriptors = FileCalls.descriptors

    @rule(
        target=descriptors,
        path=st.one_of(random_calls.paths, random_calls.places),
        flags=random_calls.flags,
        mode=random_calls.modes,
        node=random_calls.nodes,
        user=random_calls.users,
    )
    def open(self, path: Choice, flags: int, mode: int, node: int, user: User) -> Any:
        result = self.twins.call("open", self.path(path), flags, mode, node=node, user=user)
        return result if isinstance(result, Descriptor) else multiple()

    @rule(descriptor=descriptors)
    def read(self, descriptor: Descriptor) -> None:
        self.twins.call("fstat", descriptor)
        self.twins.call("read_again", descriptor)

    @rule(descriptor=descriptors, data=random_calls.data)
    def write(self, descriptor: Descriptor, data: Filling) -> None:
        self.twins.call("write_and_sync", descriptor, data)
        self.twins.call("fstat", descriptor)

    @rule(descriptor=descriptors, data=random_calls.data, offset=random_calls.offsets)
    def pwrite(self, descriptor: Descriptor, data: Filling, offset: int) -> None:
        self.twins.call("pwrite_and_sync", descriptor, data, offset)
        self.twins.call("fstat", descriptor)

    @rule(descriptor=descriptors, size=random_calls.offsets)
    def ftruncate(self, descriptor: Descriptor, size: int) -> None:
        self.twins.call("ftruncate", descriptor, size)
        self.twins.call("fstat", descriptor)

    # By root only: the kernel judges others by the owner that it knew when it last looked, which only paths make
    # it do again.

    @rule(descriptor=descriptors, mode=random_calls.modes)
    def fchmod(self, descriptor: Descriptor, mode: int) -> None:
        self.twins.call("fchmod", descriptor, mode)
        self.twins.call("fstat", descriptor)

    @rule(descriptor=descriptors, uid=random_calls.owners, gid=random_calls.owners)
    def fchown(self, descriptor: Descriptor, uid: int, gid: int) -> None:
        self.twins.call("fchown", descriptor, uid, gid)
        self.twins.call("fstat", descriptor)

    @rule(descriptor=descriptors, name=random_calls.xattr_names, value=random_calls.xattr_values)
    def fsetxattr(self, descriptor: Descriptor, name: bytes, value: Filling) -> None:
        self.twins.call("setxattr", descriptor, name, value, 0)
        self.twins.call("listxattr", descriptor)


@pytest.mark.limit_s(3600)
@pytest.mark.parametrize("file_system", [4], ids=["4-daemons"], indirect=True)
def test_random_calls_on_two_nodes_have_the_same_results(both: Both, place: Place) -> None:
    run_examples(CallsOnTwoNodes, 30, lambda: new_twins(both, place.there))
