"""The metadata record of one path and its binary form. Pure; docs/metadata_store.md has a worked example.

A record is a fixed header of 76 bytes, little-endian, then optional parts (tag u8, length u32, bytes):

    format u8 | flags u8 | placement u16 | mode u32 | uid u32 | gid u32 | nlink u32 | rdev u64 | size u64
    | atime i64 | mtime i64 | ctime i64 (ns since 1970) | fid u64 | version u64

Records travel between daemon and client as stored, so a lookup re-encodes nothing.

Invariants: *fid* is never 0 and never reused; *version* grows with every stored change; *size* of a
directory is 0; a symlink has exactly one target part, of *size* bytes.

A regular file is made with FLAG_INLINE: its data, *size* bytes, are a part of the record, and it has no chunks.
One that outgrows the record loses the flag for good: its data move to chunks. A listing leaves that part out
(`without_data`).

A file with several names has one such record under its inode address (`gkfs.paths`), and under each name a *link*:
a record with FLAG_LINK that says no more than type and fid.
"""

import stat
import struct
from typing import Any, Final, NamedTuple, Self

FORMAT: Final = 1
ROOT_FID: Final = 1
PLACEMENT_HASHED: Final = 0
# Below, from 1: all chunks on daemon placement - 1. From this on: the first chunk on daemon placement - this, all
# others hashed.
PLACEMENT_HEAD: Final = (1 << 15) + 1
FLAG_LINK: Final = 1  # the record is under the file's inode address
FLAG_SPARSE: Final = 2  # there may be holes: st_blocks does not follow from the size
FLAG_INLINE: Final = 4  # the data are in the record

_HEADER = struct.Struct("<BBHIIIIQQqqqQQ")
_FID = struct.Struct("<Q")
_MODE_SIZE_MTIME = struct.Struct("<I20xQ8xq")  # from the mode on
_FID_OFFSET: Final = 60
_VERSION_OFFSET: Final = 68
_MODE_OFFSET: Final = 4
_FLAGS_OFFSET: Final = 1
_NLINK_MASK: Final = (1 << 32) - 1
_PART = struct.Struct("<BI")
_TAG_SYMLINK_TARGET: Final = 1
_TAG_XATTR: Final = 2  # length of the name (u8), name, value
_TAG_DATA: Final = 3  # always the last one

Xattrs = tuple[tuple[bytes, bytes], ...]


class Metadentry(NamedTuple):
    """What is known of one path. Times in ns since the epoch, *size* in bytes, *mode* with the file type."""

    format: int
    flags: int
    placement: int
    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    fid: int
    version: int
    target: bytes = b""  # of a symlink
    xattrs: Xattrs = ()  # (name, value), no name twice
    data: bytes = b""  # of a regular file with FLAG_INLINE: all of it, or nothing when it was left out

    @classmethod
    def new(
        cls,
        *,
        mode: int,
        uid: int,
        gid: int,
        fid: int,
        now_ns: int,
        rdev: int = 0,
        target: bytes = b"",
        placement: int = PLACEMENT_HASHED,
    ) -> Self:
        """The record of something just created."""
        nlink = 2 if stat.S_ISDIR(mode) else 1
        flags = FLAG_INLINE if stat.S_ISREG(mode) and placement == PLACEMENT_HASHED else 0
        return cls(
            FORMAT,
            flags,
            placement,
            mode,
            uid,
            gid,
            nlink,
            rdev,
            len(target),
            now_ns,
            now_ns,
            now_ns,
            fid,
            1,
            target,
        )

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        return bool(self.flags & FLAG_LINK)

    @property
    def is_inline(self) -> bool:
        """Whether the data are in the record."""
        return bool(self.flags & FLAG_INLINE)

    def link(self) -> Self:
        """What stands under each name of this file once it has several."""
        return self._replace(
            flags=FLAG_LINK,
            placement=PLACEMENT_HASHED,
            mode=stat.S_IFMT(self.mode),
            uid=0,
            gid=0,
            nlink=0,
            rdev=0,
            size=0,
            atime_ns=0,
            mtime_ns=0,
            ctime_ns=0,
            version=1,
            target=b"",
            xattrs=(),
            data=b"",
        )

    def changed(self, **fields: Any) -> Self:
        """A copy with *fields* replaced and the version grown by one."""
        return self._replace(version=self.version + 1, **fields)


def encode(entry: Metadentry) -> bytes:
    """The stored form of *entry*."""
    record = _HEADER.pack(*entry[:14])
    if entry.target:
        record += _PART.pack(_TAG_SYMLINK_TARGET, len(entry.target)) + entry.target
    for name, value in entry.xattrs:
        record += b"".join((_PART.pack(_TAG_XATTR, 1 + len(name) + len(value)), bytes([len(name)]), name, value))
    if entry.data:
        record += _PART.pack(_TAG_DATA, len(entry.data)) + entry.data
    return record


def decode(record: bytes) -> Metadentry:
    """The inverse of `encode`. Raises ValueError when *record* is not one."""
    if len(record) < _HEADER.size or record[0] != FORMAT:
        raise ValueError(f"not a metadata record of format {FORMAT}: {len(record)} bytes, {record[:4].hex()}...")
    fields = _HEADER.unpack_from(record)
    if len(record) == _HEADER.size:
        return Metadentry._make((*fields, b"", (), b""))
    return Metadentry._make((*fields, *_parts(record)))


def check(record: bytes) -> None:
    """Raise ValueError when *record* is none, at a fraction of the cost of `decode`."""
    if len(record) != _HEADER.size or record[0] != FORMAT:
        decode(record)


def _parts(record: bytes) -> tuple[bytes, Xattrs, bytes]:
    """Symlink target, extended attributes, data."""
    target = data = b""
    xattrs: list[tuple[bytes, bytes]] = []
    position = _HEADER.size
    while position < len(record):
        try:
            tag, length = _PART.unpack_from(record, position)
        except struct.error:
            raise ValueError(f"metadata record of {len(record)} bytes ends within a part at {position}") from None
        position += _PART.size
        part = record[position : position + length]
        if data:
            raise ValueError(f"metadata record goes on behind its data, with a part of tag {tag} at {position}")
        if tag == _TAG_SYMLINK_TARGET and len(part) == length:
            target = part
        elif tag == _TAG_XATTR and part and len(part) == length > part[0]:
            xattrs.append((part[1 : 1 + part[0]], part[1 + part[0] :]))
        elif tag == _TAG_DATA and len(part) == length:
            data = part
        else:
            raise ValueError(f"metadata record has a part of tag {tag} and {length} bytes at {position}")
        position += length
    return target, tuple(xattrs), data


def has_data(record: bytes) -> bool:
    """Whether a stored record comes with a file's data, without decoding it."""
    return bool(record[_FLAGS_OFFSET] & FLAG_INLINE) and len(record) > _HEADER.size


def without_data(record: bytes) -> bytes:
    """A stored record without the part that is the file's data, for who wants attributes only."""
    if not record[_FLAGS_OFFSET] & FLAG_INLINE:
        return record
    position = _HEADER.size
    while position + _PART.size <= len(record):
        tag, length = _PART.unpack_from(record, position)
        if tag == _TAG_DATA:
            return record[:position]
        position += _PART.size + length
    return record


def without_inline(record: bytes) -> bytes:
    """A stored record as if its file had its data in chunks."""
    if not record[_FLAGS_OFFSET] & FLAG_INLINE:
        return record
    record = without_data(record)
    return record[:_FLAGS_OFFSET] + bytes([record[_FLAGS_OFFSET] & ~FLAG_INLINE]) + record[_FLAGS_OFFSET + 1 :]


def fid_of(record: bytes) -> int:
    """The fid of a stored record, without decoding the rest."""
    fid: int = _FID.unpack_from(record, _FID_OFFSET)[0]
    return fid


def version_of(record: bytes) -> int:
    """The version of a stored record, without decoding the rest."""
    version: int = _FID.unpack_from(record, _VERSION_OFFSET)[0]
    return version


def is_directory_record(record: bytes) -> bool:
    """Whether a stored record is a directory's, without decoding the rest."""
    return record[_MODE_OFFSET + 1] & 0xF0 == stat.S_IFDIR >> 8


def is_plain_file_record(record: bytes) -> bool:
    """Whether a stored record is of something with one name and without holes, and no directory's."""
    return not (record[_FLAGS_OFFSET] & (FLAG_LINK | FLAG_SPARSE) or is_directory_record(record))


def mode_size_mtime(record: bytes) -> tuple[int, int, int]:
    """Mode, size in bytes and mtime in ns of a stored record, without decoding the rest."""
    mode, size, mtime_ns = _MODE_SIZE_MTIME.unpack_from(record, _MODE_OFFSET)
    return mode, size, mtime_ns


def is_link_record(record: bytes) -> bool:
    """Whether a stored record only says that the file's record is under its inode address."""
    return bool(record[_FLAGS_OFFSET] & FLAG_LINK)


def counted(nlink: int, more: int) -> int:
    """The link count of a directory after *more* directories came into it.

    Nodes tell of what came and what went a moment later and in any order: a count may for that moment be below 2,
    even below 0, and must not be cut off there, or it would stay wrong. It is stored modulo 2**32.
    """
    return (nlink + more) & _NLINK_MASK


def shown_links(entry: Metadentry) -> int:
    """st_nlink."""
    return entry.nlink if entry.nlink <= _NLINK_MASK >> 1 else 2


def without_set_id(mode: int) -> int:
    """What chown(2), or a write by an ordinary user, leaves of *mode*.

    A set-group-id bit without group execution means mandatory locking, not a group to run as, and stays.
    """
    if not stat.S_ISREG(mode):
        return mode
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


def head_on(daemon_index: int) -> int:
    """The placement of a file whose first chunk is on the daemon of that index.

    >>> head_on(0), head_on(32766)
    (32769, 65535)
    """
    return PLACEMENT_HEAD + daemon_index


def make_fid(daemon_index: int, boot_epoch: int, counter: int) -> int:
    """A file id never given before: 16 bits daemon, 16 bits boot epoch (from 1), 32 bits counter.

    >>> hex(make_fid(3, 1, 0x2a))
    '0x300010000002a'
    """
    return daemon_index << 48 | boot_epoch << 32 | counter


def allocated_sectors(entry: Metadentry) -> int:
    """st_blocks: 512-byte sectors, in pages of 4 KiB as a local disk counts; short symlinks live in the record."""
    if entry.is_directory:
        return 8
    if entry.target and entry.size < 60:
        return 0
    return -(-entry.size // 4096) * 8
