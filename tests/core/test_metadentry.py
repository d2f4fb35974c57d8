"""The record and its binary form."""

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkfs import metadentry
from gkfs.metadentry import Metadentry

u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
times = st.integers(-(1 << 63), (1 << 63) - 1)
entries = st.builds(
    Metadentry,
    format=st.just(metadentry.FORMAT),
    flags=st.just(0),
    placement=u16,
    mode=u32,
    uid=u32,
    gid=u32,
    nlink=u32,
    rdev=u64,
    size=u64,
    atime_ns=times,
    mtime_ns=times,
    ctime_ns=times,
    fid=u64,
    version=u64,
    target=st.binary(max_size=4095),
    xattrs=st.dictionaries(st.binary(min_size=1, max_size=255), st.binary(max_size=300), max_size=4).map(
        lambda found: tuple(found.items())
    ),
    data=st.just(b""),
)
inline = st.builds(
    lambda entry, data: entry._replace(flags=metadentry.FLAG_INLINE, size=len(data), data=data),
    entries,
    st.binary(max_size=100),
)


@given(entries | inline)
def test_decode_is_the_inverse_of_encode(entry: Metadentry) -> None:
    assert metadentry.decode(metadentry.encode(entry)) == entry


@given(entries)
def test_fid_of_reads_the_stored_fid(entry: Metadentry) -> None:
    assert metadentry.fid_of(metadentry.encode(entry)) == entry.fid


@given(inline)
def test_a_record_without_its_data_says_all_else(entry: Metadentry) -> None:
    record = metadentry.encode(entry)
    assert metadentry.decode(metadentry.without_data(record)) == entry._replace(data=b"")
    assert metadentry.decode(metadentry.without_inline(record)) == entry._replace(data=b"", flags=0)
    assert metadentry.has_data(record) or not entry.data


@given(entries)
def test_a_record_whose_data_are_elsewhere_has_none_to_leave_out(entry: Metadentry) -> None:
    record = metadentry.encode(entry._replace(data=b""))
    assert metadentry.without_data(record) == metadentry.without_inline(record) == record
    assert not metadentry.has_data(record)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_record_are_a_value_error_or_a_record(record: bytes) -> None:
    try:
        entry = metadentry.decode(record)
    except ValueError:
        return
    assert metadentry.encode(entry)[:76] == record[:76]


@given(entries.filter(lambda entry: entry.target), st.integers(1, 40))
def test_a_record_cut_short_is_a_value_error(entry: Metadentry, cut: int) -> None:
    # Without attributes: their parts come last, and a record may be whole without the last of them.
    record = metadentry.encode(entry._replace(xattrs=(), data=b""))
    with pytest.raises(ValueError, match="record"):
        metadentry.decode(record[: len(record) - min(cut, len(entry.target))])


@given(inline.filter(lambda entry: entry.data), st.integers(1, 10))
def test_a_record_with_data_of_another_size_loses_them_and_nothing_else(entry: Metadentry, more: int) -> None:
    wrong = entry._replace(size=entry.size + more)
    assert metadentry.decode(metadentry.without_data(metadentry.encode(wrong))) == wrong._replace(data=b"")
    without = metadentry.encode(wrong._replace(data=b""))
    assert metadentry.without_data(without) == without


@given(inline.filter(lambda entry: entry.data))
def test_a_record_that_goes_on_behind_its_data_is_a_value_error(entry: Metadentry) -> None:
    with pytest.raises(ValueError, match="behind its data"):
        metadentry.decode(metadentry.encode(entry) + b"\x03\x01\0\0\0x")


def test_an_empty_part_is_a_value_error() -> None:
    record = metadentry.encode(Metadentry.new(mode=stat.S_IFREG, uid=0, gid=0, fid=7, now_ns=1))
    with pytest.raises(ValueError, match="tag 2"):
        metadentry.decode(record + b"\x02\0\0\0\0")


def test_the_documented_example_holds() -> None:
    entry = Metadentry.new(mode=stat.S_IFREG | 0o644, uid=1000, gid=100, fid=0x0000_0001_0000_002A, now_ns=10**18)
    assert metadentry.encode(entry).hex(" ", -4) == (
        "01040000 a4810000 e8030000 64000000 01000000 00000000 00000000 00000000 00000000 "
        "000064a7 b3b6e00d 000064a7 b3b6e00d 000064a7 b3b6e00d 2a000000 01000000 01000000 00000000"
    )


def test_changed_grows_the_version() -> None:
    entry = Metadentry.new(mode=stat.S_IFREG, uid=0, gid=0, fid=7, now_ns=1)
    assert entry.changed(size=5).version == entry.version + 1
    assert entry.changed(size=5).size == 5


def test_directories_start_with_two_links() -> None:
    assert Metadentry.new(mode=stat.S_IFDIR, uid=0, gid=0, fid=7, now_ns=1).nlink == 2


def test_fids_of_different_daemons_boots_and_counters_differ() -> None:
    fids = {metadentry.make_fid(d, e, c) for d in range(3) for e in range(1, 4) for c in range(3)}
    assert len(fids) == 27
    assert min(fids) > metadentry.ROOT_FID
