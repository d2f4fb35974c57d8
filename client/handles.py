"""Open files and directories by the number the kernel got for them."""

import os
from typing import Generic, TypeVar

from gkfs.client.ahead import Ahead
from gkfs.client.inodes import Inode

T = TypeVar("T")


class FileHandle:
    """One open(2) of a file."""

    __slots__ = ("ahead", "append", "direct", "failures_raised", "failures_seen", "inode", "privileged", "writes")

    def __init__(self, inode: Inode, flags: int, *, direct: bool, privileged: bool) -> None:
        self.inode = inode
        self.ahead = Ahead()
        self.privileged = privileged  # opened by root, whose writes leave the set-id bits
        self.append = bool(flags & os.O_APPEND)
        self.writes = flags & os.O_ACCMODE != os.O_RDONLY
        self.failures_seen = inode.behind.told if inode.behind is not None else 0
        self.failures_raised = self.failures_seen  # by a write: the next one may go well
        # Direct handles bypass the kernel's page cache, so the kernel does not cut reads at the size it knows.
        self.direct = direct or bool(flags & os.O_DIRECT)


class Handles(Generic[T]):
    """Numbers for open things; a number is not reused while the mount lives."""

    def __init__(self) -> None:
        self._next = 1
        self._open: dict[int, T] = {}

    def add(self, thing: T) -> int:
        number = self._next
        self._next += 1
        self._open[number] = thing
        return number

    def __getitem__(self, number: int) -> T:
        return self._open[number]

    def remove(self, number: int) -> T:
        """Forget the thing of that number, and at once what was read ahead for it: all handles share the room."""
        thing = self._open.pop(number)
        if isinstance(thing, FileHandle):
            thing.ahead.drop()
        return thing
