"""What the kernel is told of a record."""

import ctypes
import stat
import sys

from gkfs import metadentry
from gkfs.client.attributes import attributes, numbered
from gkfs.client.inodes import Inode
from gkfs.metadentry import Metadentry

FID = 0x0001_0001_0000_0007
ENTRY = Metadentry.new(mode=stat.S_IFREG | 0o640, uid=3, gid=4, fid=FID, now_ns=5)


def test_unpublished_writes_show() -> None:
    inode = Inode(FID, None, b"")
    inode.learn(ENTRY)
    inode.dirty, inode.dirty_size, inode.dirty_mtime_ns = True, 5000, 99
    shown = attributes(ENTRY, inode, 0.0)
    assert (shown.st_size, shown.st_blocks, shown.st_mtime_ns, shown.st_ctime_ns) == (5000, 16, 99, 99)


def test_a_listed_entry_has_a_number_but_no_node_id() -> None:
    full, short = attributes(ENTRY, None, 0.0), numbered(ENTRY, None)
    wanted = FID.to_bytes(8, sys.byteorder)
    raw = [ctypes.string_at(id(entry), sys.getsizeof(entry)) for entry in (full, short)]
    assert [data.count(wanted) for data in raw] == [2, 1]
    assert short.st_mode == full.st_mode


def test_a_directory_has_two_links_until_it_is_removed() -> None:
    entry = Metadentry.new(mode=stat.S_IFDIR | 0o755, uid=0, gid=0, fid=FID, now_ns=5)
    inode = Inode(FID, None, b"")
    inode.learn(entry)
    early = entry.changed(nlink=metadentry.counted(0, -3))  # removals are known, creations are not yet
    assert [attributes(one, inode, 0.0).st_nlink for one in (entry, early, entry.changed(nlink=5))] == [2, 2, 5]
    inode.removed = True
    assert attributes(entry.changed(nlink=0), inode, 0.0).st_nlink == 0


def test_symlinks_of_usual_length_take_no_blocks() -> None:
    link = Metadentry.new(mode=stat.S_IFLNK | 0o777, uid=0, gid=0, fid=FID, now_ns=5, target=b"target")
    assert (attributes(link, None, 0.0).st_size, attributes(link, None, 0.0).st_blocks) == (6, 0)
