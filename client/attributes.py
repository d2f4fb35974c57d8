"""From a metadata record to what the kernel wants to know."""

import ctypes
import sys
from collections.abc import Callable

from pyfuse3 import EntryAttributes

from gkfs.client.inodes import Inode
from gkfs.limits import CHUNK_SIZE_BYTES, DIRECTORY_ATTR_TIMEOUT_S, LISTED_TIMEOUT_S
from gkfs.metadentry import Metadentry, allocated_sectors, shown_links


def attributes(entry: Metadentry, inode: Inode | None, timeout_s: float) -> EntryAttributes:
    """Attributes of *entry*, with the unpublished writes of *inode* on this node.

    The kernel must not cache the name (entry_timeout 0): another node may change it at any time. Only a lookup
    of a directory knows better.
    *timeout_s*: how long the kernel may use the attributes without asking, if there is no lease. Of a directory
    under one it may for up to `DIRECTORY_ATTR_TIMEOUT_S`, as it checks them at each step of a path; after that its
    times may be wrong.
    """
    if inode is not None and (inode.dirty or inode.cut_from):
        mtime_ns = max(entry.mtime_ns, inode.dirty_mtime_ns)
        entry = entry._replace(
            size=inode.size, mtime_ns=mtime_ns, ctime_ns=max(entry.ctime_ns, inode.dirty_mtime_ns)
        )
    result = EntryAttributes()
    result.st_ino = entry.fid
    result.entry_timeout = 0
    result.attr_timeout = timeout_s
    if inode is not None and inode.lease_until_s:
        left_s = inode.lease_left_s()
        result.attr_timeout = max(
            timeout_s, min(left_s, DIRECTORY_ATTR_TIMEOUT_S) if entry.is_directory else left_s
        )
    result.st_mode = entry.mode
    is_there = entry.is_directory and (inode is None or not inode.removed)
    result.st_nlink = max(2, shown_links(entry)) if is_there else entry.nlink
    result.st_uid = entry.uid
    result.st_gid = entry.gid
    result.st_rdev = entry.rdev
    result.st_size = 4096 if entry.is_directory else entry.size
    result.st_blksize = 4096 if entry.is_directory else CHUNK_SIZE_BYTES
    if inode is not None and inode.is_sparse:
        result.st_blocks = inode.allocated_bytes // 512
    else:
        result.st_blocks = allocated_sectors(entry)
    result.st_atime_ns = entry.atime_ns
    result.st_mtime_ns = entry.mtime_ns
    result.st_ctime_ns = entry.ctime_ns
    return result


def _node_id_eraser() -> Callable[[EntryAttributes], None]:
    """A function that sets the node id in EntryAttributes to 0 and leaves st_ino.

    That tells the kernel to take type and number of a listed entry, but no reference to its inode. libfuse allows
    it; pyfuse3 sets both fields together, so the field is found in the object's memory, at the first of the two
    places where a number given as st_ino shows up.
    """
    probe = EntryAttributes()
    probe.st_ino = 0x0123_4567_89AB_CDEF
    size = sys.getsizeof(probe)
    offset = ctypes.string_at(id(probe), size).find(probe.st_ino.to_bytes(8, sys.byteorder))
    node_id = ctypes.c_uint64.from_address

    def erase(entry: EntryAttributes) -> None:
        node_id(id(entry) + offset).value = 0

    erase(probe)
    kept = ctypes.string_at(id(probe), size).find((0x0123_4567_89AB_CDEF).to_bytes(8, sys.byteorder))
    if offset < 0 or probe.st_ino != 0 or kept <= offset:
        raise ImportError("this release of pyfuse3 keeps the node id where it is not expected")
    return erase


_erase_node_id = _node_id_eraser()


def numbered(entry: Metadentry, inode: Inode | None) -> EntryAttributes:
    """Type and number of an entry of a listing, of which the kernel keeps nothing.

    Of a directory, since its name may be cached under a lease only; of one of several names of a file, since its
    record is elsewhere; of a file with holes, since the space it takes is not known here.
    """
    result = attributes(entry, inode, 0.0)
    _erase_node_id(result)
    return result


def listed(inode: Inode) -> EntryAttributes:
    """Name and attributes of a file in a listing, which the kernel may use for `LISTED_TIMEOUT_S`."""
    result = attributes(inode.entry, inode, LISTED_TIMEOUT_S)
    result.entry_timeout = LISTED_TIMEOUT_S
    return result
