"""The inode table."""

import stat

import pytest

from gkfs import metadentry
from gkfs.client.inodes import Inode, InodeTable
from gkfs.metadentry import ROOT_FID, Metadentry


def record(fid: int, mode: int = stat.S_IFREG | 0o644) -> bytes:
    return metadentry.encode(Metadentry.new(mode=mode, uid=0, gid=0, fid=fid, now_ns=1))


def directory(fid: int) -> bytes:
    return record(fid, stat.S_IFDIR | 0o755)


@pytest.fixture
def table() -> InodeTable:
    return InodeTable()


def test_paths_follow_the_names_below_the_root(table: InodeTable) -> None:
    a = table.seen(table.root, b"a", directory(2))
    b = table.seen(a, b"b", record(3))
    assert table.path(table.root) == b"/"
    assert table.path(a) == b"/a"
    assert table.path(b) == b"/a/b"


def test_moving_a_directory_moves_the_paths_below_it(table: InodeTable) -> None:
    a = table.seen(table.root, b"a", directory(2))
    b = table.seen(a, b"b", directory(3))
    c = table.seen(b, b"c", record(4))
    assert table.path(c) == b"/a/b/c"
    table.move(b, table.root, b"z")
    assert table.path(c) == b"/z/c"
    assert table.named(a, b"b") is None
    assert table.named(table.root, b"z") is b


def test_a_name_seen_for_a_known_file_moves_its_inode(table: InodeTable) -> None:
    one = table.seen(table.root, b"one", record(2))
    assert table.seen(table.root, b"two", record(2)) is one
    assert table.path(one) == b"/two"


def test_a_new_file_under_an_old_name_takes_the_name(table: InodeTable) -> None:
    old = table.seen(table.root, b"f", record(2))
    new = table.seen(table.root, b"f", record(3))
    assert table.named(table.root, b"f") is new
    table.forget(old.fid, 1)
    assert table.named(table.root, b"f") is new


def test_a_frozen_inode_keeps_its_path_when_directories_move(table: InodeTable) -> None:
    a = table.seen(table.root, b"a", directory(2))
    f = table.seen(a, b"f", record(3))
    table.freeze(f, table.path(f))
    table.move(a, table.root, b"z")
    assert table.path(f) == b"/a/f"
    assert table.named(a, b"f") is None


def test_an_inode_goes_with_its_last_reference(table: InodeTable) -> None:
    table.seen(table.root, b"f", record(2))
    table.seen(table.root, b"f", record(2))
    table.forget(2, 1)
    assert table.known(2) is not None
    table.forget(2, 1)
    assert table.known(2) is None
    assert table.named(table.root, b"f") is None
    assert len(table) == 1


def test_the_root_is_never_forgotten(table: InodeTable) -> None:
    table.forget(table.root.fid, 100)
    assert table[1] is table.root


def test_a_record_is_fresh_once_after_a_lookup(table: InodeTable) -> None:
    inode = table.seen(table.root, b"f", record(2))
    assert inode.take_fresh()
    assert not inode.take_fresh()


def test_unpublished_writes_make_the_size_of_this_node() -> None:
    inode = Inode(2, None, b"")
    inode.learn(record(2))
    assert inode.size == 0
    inode.dirty, inode.dirty_size = True, 77
    assert inode.size == 77


@pytest.mark.parametrize("fid", [0, ROOT_FID])
def test_no_entry_has_the_number_of_the_root_or_none(fid: int, table: InodeTable) -> None:
    for see in (table.seen, table.listed):
        with pytest.raises(OSError, match="Input/output error"):
            see(table.root, b"a", directory(fid))
    assert table.path(table.root) == b"/"
    assert len(table) == 1
    assert table.known(fid) is None  # so it is neither renamed nor removed


def test_directory_that_turns_out_to_be_below_where_it_is_known_leaves_no_circle(table: InodeTable) -> None:
    a = table.seen(table.root, b"a", directory(2))
    b = table.seen(a, b"b", directory(3))
    file = table.seen(b, b"f", record(4))
    table.seen(a, b"x", directory(2))  # another node has put something else at /a, and this one into it
    assert table.path(a) == b"/a/x"
    assert table.path(file) == b"/a/x/b/f"
    table.seen(b, b"y", directory(2))
    assert table.path(a) == b"/a/x/b/y"
    table.seen(table.root, b"z", directory(2))
    assert (table.path(a), table.path(file)) == (b"/z", b"/z/b/f")


def test_a_file_that_was_out_of_reach_is_written_again_once_it_is_found(table: InodeTable) -> None:
    file = table.seen(table.root, b"f", record(2))
    file.gone = True
    assert table.seen(table.root, b"g", record(2)) is file
    assert not file.gone


def test_an_answer_that_comes_late_changes_nothing() -> None:
    inode = Inode(7, None, b"file")
    old = Metadentry.new(mode=stat.S_IFREG | 0o644, uid=0, gid=0, fid=7, now_ns=1)
    new = old.changed(size=100000, flags=0, placement=2)
    inode.learn(metadentry.encode(new))
    inode.learn(metadentry.encode(old))
    assert inode.entry == new
    inode.learn(old, fresh=True)
    assert inode.entry == new
    inode.learn(new._replace(nlink=2))
    assert inode.entry.nlink == 2
