"""From a metadata record to what the kernel wants to know."""

from pyfuse3 import EntryAttributes

from gkfs.client.inodes import Inode
from gkfs.limits import CHUNK_SIZE_BYTES, DIRECTORY_ATTR_TIMEOUT_S
from gkfs.metadentry import Metadentry, allocated_sectors


def attributes(entry: Metadentry, inode: Inode | None, timeout_s: float) -> EntryAttributes:
    """Attributes of *entry*, with the unpublished writes of *inode* on this node.

    Names are never cached by the kernel (entry_timeout 0): another node may change them at any time.
    *timeout_s*: how long the kernel may use the attributes without asking; directories never less than
    `DIRECTORY_ATTR_TIMEOUT_S`, as the kernel checks them at each step of a path.
    """
    if inode is not None and inode.dirty:
        mtime_ns = max(entry.mtime_ns, inode.dirty_mtime_ns)
        entry = entry._replace(
            size=inode.size, mtime_ns=mtime_ns, ctime_ns=max(entry.ctime_ns, inode.dirty_mtime_ns)
        )
    result = EntryAttributes()
    result.st_ino = entry.fid
    result.entry_timeout = 0
    result.attr_timeout = max(timeout_s, DIRECTORY_ATTR_TIMEOUT_S) if entry.is_directory else timeout_s
    result.st_mode = entry.mode
    result.st_nlink = entry.nlink
    result.st_uid = entry.uid
    result.st_gid = entry.gid
    result.st_rdev = entry.rdev
    result.st_size = 4096 if entry.is_directory else entry.size
    result.st_blksize = 4096 if entry.is_directory else CHUNK_SIZE_BYTES
    result.st_blocks = allocated_sectors(entry)
    result.st_atime_ns = entry.atime_ns
    result.st_mtime_ns = entry.mtime_ns
    result.st_ctime_ns = entry.ctime_ns
    return result
