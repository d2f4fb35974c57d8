"""The prototype's inodes, which several processes share, have all that an inode has."""

import inspect

from benchmarks.workers.inodes import SharedInodes
from benchmarks.workers.table import Table
from gkfs.client.inodes import Inode


def test_a_shared_inode_has_every_attribute_of_an_inode() -> None:
    attributes = [
        name
        for name, value in inspect.getmembers_static(Inode)
        if inspect.ismemberdescriptor(value) or inspect.isgetsetdescriptor(value)
    ]
    assert "fid" in attributes
    root = SharedInodes(Table()).root
    assert [name for name in attributes if not hasattr(root, name)] == []
