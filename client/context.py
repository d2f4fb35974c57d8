"""What all parts of the client share: the daemons, the inode table, and calls about one record."""

import errno
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from gkfs import metadentry
from gkfs.channel import Call
from gkfs.client.inodes import Inode, InodeTable
from gkfs.client.pool import Pool
from gkfs.distributor import Distributor
from gkfs.errors import os_error
from gkfs.limits import MOVES_FOLLOWED
from gkfs.messages import RecordReply, StatRequest, WhereRequest
from gkfs.metadentry import PLACEMENT_HASHED, Metadentry
from gkfs.operations import LEASE, STAT, WHERE, Operation, Q, R
from gkfs.paths import inode_address, is_address, printable

# Of a directory: "local" keeps the data of large files made in it on the node that makes them.
PLACEMENT_XATTR: Final = b"user.gkfs.placement"


class MountOptions(NamedTuple):
    """How the kernel is told to use the mount."""

    direct_io: bool = False  # bypass the page cache for every file
    xattrs: bool = True
    write_through: bool = False  # writes return when the daemons have the data
    local_placement: bool = False  # large files made here have their data on this node
    attr_timeout_s: float = 0.0  # above 0: attributes may be that old, also when another node changed them


class Context:
    """Shared state of one mount. Owns nothing that needs closing."""

    def __init__(
        self, pool: Pool, distributor: Distributor, options: MountOptions, local_daemons: Sequence[int] = ()
    ) -> None:
        self.pool = pool
        self.distributor = distributor
        self.options = options
        self.inodes = InodeTable()
        self._local_daemons = local_daemons

    def placement_of(self, inode: Inode) -> int:
        """Where the chunks of a file that gets its first one should be; 0: anywhere.

        All on this node, if the mount or the directory says so and the node has daemons.
        """
        parent = inode.parent
        wants_local = self.options.local_placement or (
            parent is not None and (PLACEMENT_XATTR, b"local") in parent.entry.xattrs
        )
        if not wants_local or not self._local_daemons:
            return PLACEMENT_HASHED
        return self._local_daemons[inode.fid % len(self._local_daemons)] + 1

    def chunk_owner(self, inode: Inode, chunk: int) -> int:
        """The daemon that has the chunk of that index, of a file whose data are not in its record."""
        return self.distributor.chunk_owner(inode.fid, chunk, inode.entry.placement)

    def call_owner(self, path: bytes, operation: Operation[Q, R], request: Q) -> Call[R]:
        """Queue *request* for the daemon that owns *path*."""
        return self.pool.call(self.distributor.path_owner(path), operation, request)

    async def about(self, inode: Inode, operation: Operation[Q, R], make: Callable[[bytes], Q]) -> R:
        """Call the owner of *inode*; *make* gets its path. Asked again where a rename has moved it meanwhile.

        Raises OSError; ESTALE, not ENOENT, when it is nowhere to be found: who came by a path walks it again.
        """
        for _ in range(MOVES_FOLLOWED):
            path = self.inodes.path(inode)
            try:
                return await self.call_owner(path, operation, make(path))
            except OSError as error:
                if error.errno not in (errno.ESTALE, errno.ENOENT):
                    raise
                missed = error
            if not await self.follow(inode, path):
                gone = missed.errno == errno.ENOENT
                raise os_error(errno.ESTALE, f"{printable(path)} is gone") if gone else missed
        raise os_error(errno.ESTALE, f"file {inode.fid:#x} is being renamed all the time")

    async def follow(self, inode: Inode, path: bytes) -> bool:
        """Whether the record of *inode*, which is not at *path*, may be found somewhere else by now."""
        if inode is self.inodes.root:
            return False
        if self.inodes.path(inode) == path:
            found = await self._where(path, inode.fid)
            if not found and not inode.entry.is_directory and not is_address(path):
                found = await self._address(inode)
            if not found and inode.opens and inode.held_path != path:
                # It may have lost its name before a directory above was renamed, and has stayed where that was.
                found = await self._where(inode.held_path, inode.fid)
            if found and self.inodes.path(inode) == path:
                self.inodes.found(inode, found)
                return True
        return self.inodes.path(inode) != path

    async def _where(self, path: bytes, fid: int) -> bytes:
        """Where the record of *fid* is that was at *path*, or its inode address; b"" when that is not known.

        What a daemon remembers may be of something else that was there before, or out of date: it counts when the
        record is there.
        """
        ahead, asked = [path], set[bytes]()
        for _ in range(MOVES_FOLLOWED):
            if not ahead:
                break
            path = ahead.pop()
            asked.add(path)
            found = (await self.call_owner(path, WHERE, WhereRequest(path, fid))).paths
            if found and (found[0] == path or is_address(found[0])):
                return found[0]
            new = [place for place in reversed(found) if place not in asked]
            # Who has been asked is asked again if nobody else is left: it may be renamed to and fro.
            ahead = [place for place in ahead if place not in new] + new or found[:1]
        return b""

    async def _address(self, inode: Inode) -> bytes:
        """The inode address of a file, if another node has given it more names and removed the one known here."""
        address = inode_address(inode.fid)
        try:
            await self.call_owner(address, STAT, StatRequest(address, inode.fid))
        except OSError as error:
            if error.errno not in (errno.ESTALE, errno.ENOENT):
                raise
            return b""
        return address

    async def stat(self, inode: Inode) -> Metadentry:
        """The record of a file, as it is now."""
        return await self.refresh(inode, STAT, lambda path: StatRequest(path, inode.fid))

    async def lease(self, inode: Inode) -> Metadentry:
        """As `stat`; no other node changes it for a while, unless one has lately. *inode* is open here."""
        sent_s = time.monotonic()
        reply = await self.about(inode, LEASE, lambda path: StatRequest(path, inode.fid))
        inode.lease(sent_s, granted=reply.leased)
        return self._learn(inode, reply.record)

    async def refresh(
        self, inode: Inode, operation: Operation[Q, RecordReply], make: Callable[[bytes], Q]
    ) -> Metadentry:
        """`about` for operations that return the record, which the inode then knows."""
        reply = await self.about(inode, operation, make)
        return self._learn(inode, reply.record)

    def _learn(self, inode: Inode, record: bytes) -> Metadentry:
        entry = metadentry.decode(record)
        inode.learn(entry)
        self.inodes.keep_data(inode)
        return entry
