"""Headers that Python's tarfile reads as they were meant; GNU tar's side is in test_container.py."""

import io
import stat
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkfs import pax
from gkfs.metadentry import Metadentry

NAMES = st.binary(min_size=1, max_size=255).map(lambda name: name.translate(bytes.maketrans(b"\0/", b"__")))
PATHS = st.lists(NAMES, min_size=1, max_size=5).map(b"/".join)
TIMES_NS = st.integers(min_value=-(10**18), max_value=10**20)


def entry_of(mode: int, **fields: object) -> Metadentry:
    return Metadentry.new(mode=mode, uid=1, gid=2, fid=3, now_ns=0)._replace(**fields)  # type: ignore[arg-type]


def read(head: bytes, data: bytes = b"") -> tarfile.TarInfo:
    """The only member of an archive with this header."""
    whole = head + data + bytes(pax.padded(len(data)) - len(data)) + pax.END
    with tarfile.open(fileobj=io.BytesIO(whole), encoding="utf-8", errors="surrogateescape") as archive:
        (member,) = archive.getmembers()
    return member


def raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


@given(PATHS, TIMES_NS, st.integers(0, 0o7777), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_name_times_mode_and_owner_come_back(path: bytes, time_ns: int, mode: int, uid: int, gid: int) -> None:
    entry = entry_of(stat.S_IFREG | mode, uid=uid, gid=gid, mtime_ns=time_ns, atime_ns=5)
    found = read(pax.header(path, entry))
    assert (raw(found.name), found.mode, found.uid, found.gid) == (path, mode, uid, gid)
    assert found.isreg()
    assert found.mtime == pytest.approx(time_ns / 1e9, abs=1e-3)
    if time_ns % 10**9:
        sign, digits = ("-", -time_ns) if time_ns < 0 else ("", time_ns)
        assert found.pax_headers["mtime"] == f"{sign}{digits // 10**9}.{digits % 10**9:09d}"


@given(PATHS, PATHS)
def test_targets_of_links_come_back(path: bytes, target: bytes) -> None:
    symlink = read(pax.header(path, entry_of(stat.S_IFLNK | 0o777, target=target)))
    assert symlink.issym()
    assert (raw(symlink.name), raw(symlink.linkname)) == (path, target)
    hard = read(pax.header(path, entry_of(stat.S_IFREG, xattrs=((b"user.a", b"1"),)), link=target))
    assert hard.islnk()
    assert (raw(hard.name), raw(hard.linkname), hard.size) == (path, target, 0)


@given(st.lists(st.tuples(NAMES, st.binary(max_size=2000)), max_size=4, unique_by=lambda pair: pair[0]))
def test_extended_attributes_are_length_prefixed_records_with_any_bytes(pairs: list[tuple[bytes, bytes]]) -> None:
    xattrs = tuple((b"user." + name, value) for name, value in pairs)
    head = pax.header(b"f", entry_of(stat.S_IFREG, xattrs=xattrs))
    size = int(head[124:135], 8) if head[156:157] == b"x" else 0
    found, position = {}, 512
    while position < 512 + size:
        length = int(head[position:].split(b" ", 1)[0])
        keyword, value = head[position : position + length - 1].split(b" ", 1)[1].split(b"=", 1)
        assert head[position + length - 1 : position + length] == b"\n"
        found[keyword] = value
        position += length
    escaped = {name.replace(b"%", b"%25").replace(b"=", b"%3D"): value for name, value in xattrs}
    assert found == {b"SCHILY.xattr." + name: value for name, value in escaped.items()}


def test_devices_and_pipes_keep_their_type_and_numbers() -> None:
    device = read(pax.header(b"d", entry_of(stat.S_IFCHR | 0o600, rdev=(1 << 8) | 5)))
    assert (device.ischr(), device.devmajor, device.devminor) == (True, 1, 5)
    assert read(pax.header(b"p", entry_of(stat.S_IFIFO))).isfifo()
    assert read(pax.header(b"d", entry_of(stat.S_IFDIR))).isdir()


def test_a_socket_has_no_header() -> None:
    assert not pax.can_hold(stat.S_IFSOCK)
    with pytest.raises(ValueError, match="cannot hold"):
        pax.header(b"s", entry_of(stat.S_IFSOCK))


def test_sizes_of_8_gib_and_more_are_in_the_extended_header() -> None:
    head = pax.header(b"big", entry_of(stat.S_IFREG), 1 << 40)
    assert b" size=1099511627776\n" in head
    assert tarfile.TarInfo.frombuf(head[-512:], "utf-8", "strict").size == 0


def test_a_short_name_and_whole_seconds_take_one_block() -> None:
    assert len(pax.header(b"f", entry_of(stat.S_IFREG, mtime_ns=10**18, atime_ns=10**18))) == 512
