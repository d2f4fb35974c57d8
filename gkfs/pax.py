r"""Headers of POSIX pax archives (POSIX.1-2001, what `tar --format=pax` writes) from metadata records. Pure.

A header is a block of 512 bytes (ustar), before it where needed an extended one: a block and its records, each
``LENGTH KEYWORD=VALUE\n``. Names go as they are, without regard to their encoding: in the ustar field when short,
else in a record, with ``hdrcharset=BINARY`` when they are not UTF-8. Extended attributes are records
``SCHILY.xattr.NAME``, as GNU tar, bsdtar and star know them. Python's tarfile would take ten times as long.
"""

import os
import stat
from typing import Final

from gkfs.metadentry import Metadentry

BLOCK_BYTES: Final = 512
END: Final = bytes(2 * BLOCK_BYTES)  # of an archive

_NAME_MAX: Final = 100
_OCTAL_7: Final = 8**7 - 1
_OCTAL_11: Final = 8**11 - 1
_BILLION: Final = 10**9
_REGULAR: Final = b"0"
_LINK: Final = b"1"
_EXTENDED: Final = b"x"
_TYPES: Final = {
    stat.S_IFREG: _REGULAR,
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}


def can_hold(mode: int) -> bool:
    """Whether there is a header for this type of file; for sockets there is none."""
    return stat.S_IFMT(mode) in _TYPES


def padded(size: int) -> int:
    """*size* bytes of data, filled up to whole blocks.

    >>> padded(0), padded(1), padded(512)
    (0, 512, 512)
    """
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def header(name: bytes, entry: Metadentry, size: int = 0, link: bytes = b"") -> bytes:
    """All blocks that come before the *size* bytes of data of a member.

    *link*: the member that this is a further name of. Raises ValueError when `can_hold` says no.
    """
    kind = _LINK if link else _TYPES.get(stat.S_IFMT(entry.mode))
    if kind is None:
        raise ValueError(f"an archive cannot hold a file of mode {entry.mode:o}")
    if entry.is_directory:
        name += b"/"
    target = link or entry.target
    records = _names(name, target) + _numbers(entry, size)
    if not link:
        records += b"".join(_xattr(key, value) for key, value in entry.xattrs)
    device = entry.rdev if kind in (b"3", b"4") else 0
    block = _block(
        name[:_NAME_MAX],
        entry.mode & 0o7777,
        entry.uid if entry.uid <= _OCTAL_7 else 0,
        entry.gid if entry.gid <= _OCTAL_7 else 0,
        size if size <= _OCTAL_11 else 0,
        min(max(entry.mtime_ns // _BILLION, 0), _OCTAL_11),
        kind,
        target[:_NAME_MAX],
        device,
    )
    if not records:
        return block
    first = _block(b"././@PaxHeader", 0o644, 0, 0, len(records), 0, _EXTENDED, b"", 0)
    return b"".join((first, records, bytes(padded(len(records)) - len(records)), block))


def _block(
    name: bytes, mode: int, uid: int, gid: int, size: int, mtime_s: int, kind: bytes, target: bytes, device: int
) -> bytes:
    front = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(_NAME_MAX, b"\0"), mode, uid, gid, size, mtime_s)
    back = b"%b%bustar\x0000%b%07o\0%07o\0" % (
        kind,
        target.ljust(_NAME_MAX, b"\0"),
        bytes(64),  # names of user and group: numbers count
        os.major(device) & _OCTAL_7,
        os.minor(device) & _OCTAL_7,
    )
    checksum = sum(front) + sum(back) + 8 * ord(" ")
    return (b"%b%06o\0 %b" % (front, checksum, back)).ljust(BLOCK_BYTES, b"\0")


def _names(name: bytes, target: bytes) -> bytes:
    long = [(key, value) for key, value in ((b"path", name), (b"linkpath", target)) if len(value) > _NAME_MAX]
    if not long:
        return b""
    charset = b"" if all(_is_utf8(value) for _, value in long) else _record(b"hdrcharset", b"BINARY")
    return charset + b"".join(_record(key, value) for key, value in long)


def _numbers(entry: Metadentry, size: int) -> bytes:
    records = b""
    if entry.uid > _OCTAL_7:
        records += _record(b"uid", b"%d" % entry.uid)
    if entry.gid > _OCTAL_7:
        records += _record(b"gid", b"%d" % entry.gid)
    if size > _OCTAL_11:
        records += _record(b"size", b"%d" % size)
    if entry.mtime_ns % _BILLION or not 0 <= entry.mtime_ns // _BILLION <= _OCTAL_11:
        records += _record(b"mtime", _seconds(entry.mtime_ns))
    if entry.atime_ns != entry.mtime_ns:
        records += _record(b"atime", _seconds(entry.atime_ns))
    return records


def _seconds(time_ns: int) -> bytes:
    whole, fraction = divmod(abs(time_ns), _BILLION)
    return b"%b%d.%09d" % (b"-" if time_ns < 0 else b"", whole, fraction)


def _xattr(name: bytes, value: bytes) -> bytes:
    return _record(b"SCHILY.xattr." + name.replace(b"%", b"%25").replace(b"=", b"%3D"), value)


def _record(keyword: bytes, value: bytes) -> bytes:
    """A record; its length counts its own digits.

    >>> _record(b"a", b"1234"), _record(b"a", b"12345")
    (b'9 a=1234\\n', b'11 a=12345\\n')
    """
    rest = len(keyword) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %b=%b\n" % (length, keyword, value)


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
