"""Containers: written and read back, found damaged when damaged, and extracted by GNU tar and Python's tarfile."""

import os
import re
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkfs import container, metadentry, pax
from gkfs.container import ContainerWriter, Damaged, Entry, Finished, Segment
from gkfs.messages import Buffer
from gkfs.metadentry import Metadentry, make_fid

NOW_NS = 1_700_000_000_123_456_789


class Written:
    """A container and its index in memory."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.index = bytearray()
        self.put_bytes = 0
        self.writer = ContainerWriter(self._put, self.index.extend)
        self.finished: Finished

    def _put(self, offset: int, data: Buffer) -> None:
        self.data.extend(bytes(max(0, offset + len(data) - len(self.data))))
        self.data[offset : offset + len(data)] = data
        self.put_bytes += len(data)

    def finish(self) -> None:
        self.finished = self.writer.finish()

    def read(self, offset: int, length: int) -> Buffer:
        return memoryview(self.data)[offset : offset + length]

    def segments(self) -> list[Segment]:
        return container.decode_table(bytes(self.index[self.finished.table_offset :]), self.finished.digest)

    def entries(self) -> list[Entry]:
        found = []
        for segment in self.segments():
            block = bytes(self.index[segment.index_offset : segment.index_offset + segment.index_bytes])
            found += container.decode_block(block, segment)
        return found

    def content(self, entry: Entry) -> dict[int, bytes]:
        container.check_member(entry, self.read)
        found = [piece for piece in container.pieces(entry, 1000) if piece.start >= 0]
        assert all(piece.start // 1000 == (piece.start + piece.length - 1) // 1000 for piece in found)
        return {piece.start: bytes(self.read(piece.offset, piece.length)) for piece in found}


def record(mode: int = stat.S_IFREG | 0o640, **fields: object) -> bytes:
    entry = Metadentry.new(mode=mode, uid=os.getuid(), gid=os.getgid(), fid=7, now_ns=NOW_NS)
    return metadentry.encode(entry._replace(**fields))  # type: ignore[arg-type]


def assembled(pieces: dict[int, bytes], size: int) -> bytes:
    whole = bytearray(size)
    for offset, data in pieces.items():
        whole[offset : offset + len(data)] = data
    return bytes(whole)


FILES = st.dictionaries(
    st.lists(st.sampled_from([b"a", b"b", b"\xe9", b"\n"]), min_size=1, max_size=12).map(b"".join),
    st.lists(st.one_of(st.binary(max_size=3000), st.integers(1, 2000)), max_size=5),
    max_size=8,
)


@given(FILES)
def test_what_was_written_is_read_back_and_holes_stay_holes(files: dict[bytes, list[bytes | int]]) -> None:
    written = Written()
    contents = {}
    for path, pieces in files.items():
        content = b"".join(bytes(piece) for piece in pieces)
        contents[path] = content
        written.writer.begin(path, record(size=len(content)), size=len(content))
        for piece in pieces:
            if isinstance(piece, int):
                written.writer.hole(piece)
            elif piece:
                written.writer.data(piece)
        written.writer.end()
    written.finish()
    holes = sum(piece for pieces in files.values() for piece in pieces if isinstance(piece, int))
    assert written.put_bytes == len(written.data) - holes
    entries = written.entries()
    assert [entry.path for entry in entries] == list(files)
    for entry in entries:
        found = written.content(entry)
        assert assembled(found, entry.size) == contents[entry.path]
        assert sum(map(len, found.values())) == entry.size - sum(length for _, length in container.holes(entry))
        assert not any(any(written.data[start : start + length]) for start, length in container.holes(entry))


@given(FILES, st.data())
def test_a_flipped_byte_anywhere_in_container_or_index_is_found(
    files: dict[bytes, list[bytes | int]], data: st.DataObject
) -> None:
    written = Written()
    for path, pieces in files.items():
        content = b"".join(bytes(piece) for piece in pieces)
        written.writer.add(path, record(size=len(content)), content)
    written.finish()
    members = sum(entry.end - entry.offset for entry in written.entries())
    where = data.draw(st.integers(0, members + len(written.index) - 1))
    if where < members:
        written.data[where] ^= 1 << data.draw(st.integers(0, 7))
        (hit,) = [entry for entry in written.entries() if entry.offset <= where < entry.end]
        for entry in written.entries():
            if entry == hit:
                with pytest.raises(Damaged, match=rf"(?s) at {hit.offset}: its checksum"):
                    container.check_member(entry, written.read)
            else:
                container.check_member(entry, written.read)
    elif where - members >= len(container.MAGIC):
        written.index[where - members] ^= 1
        with pytest.raises(Damaged, match="index"):
            written.entries()


def test_a_container_cut_short_is_found_with_the_place_where_it_ends() -> None:
    written = Written()
    written.writer.add(b"a", record(size=5000), b"x" * 5000)
    written.finish()
    del written.data[3000:]
    (entry,) = written.entries()
    with pytest.raises(Damaged, match="a at 0: the container ends at 3000"):
        container.check_member(entry, written.read)


def test_segments_cover_the_container_without_gap_and_are_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(container, "PACK_SEGMENT_BYTES", 10_000)
    monkeypatch.setattr(container, "PACK_INDEX_ENTRIES", 5)
    written = Written()
    for number in range(100):
        written.writer.add(b"%d" % number, record(size=100 * number), b"x" * (100 * number))
    written.finish()
    segments = written.segments()
    assert len(segments) > 20
    assert [segment.first for segment in segments] == [0, *(segment.end for segment in segments[:-1])]
    assert all(segment.end - segment.first < 10_000 + 12_000 and segment.entries <= 5 for segment in segments)
    assert segments[-1].end == written.finished.size - len(pax.END)
    assert sum(segment.entries for segment in segments) == written.finished.entries == 100


def test_a_member_that_gets_fewer_bytes_than_announced_is_refused() -> None:
    writer = Written().writer
    writer.begin(b"a", record(size=10), size=10)
    writer.data(b"123")
    with pytest.raises(ValueError, match="7 bytes"):
        writer.end()


def test_names_of_parts_sort_as_the_parts_and_fit_a_directory() -> None:
    names = [container.part_name(b"d/" + b"n" * 255, number, 11) for number in range(1, 12)]
    assert names == sorted(set(names))
    assert all(len(name.split(b"/")[1]) == 255 for name in names)
    assert container.part_name(b"big", 2, 3) == b"big.gkfs-part-000002-of-000003"


def test_the_example_of_the_documentation_is_what_is_written() -> None:
    written = Written()
    entry = Metadentry.new(mode=stat.S_IFREG | 0o644, uid=1000, gid=100, fid=make_fid(0, 1, 42), now_ns=10**18)
    written.writer.add(b"hello", metadentry.encode(entry._replace(size=6, flags=0)), b"hello\n")
    written.finish()
    text = (Path(__file__).parents[2] / "docs" / "container_format.md").read_text().split("## An example")[1]
    lines = [line for line in text.splitlines() if line.startswith("    ") and "offset 0  " not in line]
    shown = ["".join(re.findall(r"(?<=[ ])[0-9a-f]+(?= |$)", line[:58])) for line in lines[4:]]
    assert "".join(shown[:3]) == written.index[:17].hex()
    assert "".join(shown[4:]) == written.index[17 + 2 + 76 :].hex()
    assert shown[3] + written.index[17 + 2 + 16 : 17 + 2 + 76].hex() == written.index[17 : 17 + 2 + 76].hex()
    finished = written.finished
    assert f"index_bytes {finished.index_bytes}, table_offset {finished.table_offset}" in text
    assert f"size {finished.size}, entries {finished.entries}" in text
    assert finished.digest.hex() in text
    assert written.data[124:156] == b"00000000006\x0007346545000\x00010317\0 "
    assert '"00000000006" 0 "07346545000" 0 "010317" 0 " "' in text


# --- other programs read it

LONG = b"d/" + b"l" * 255
ODD = b"d/new\nline \xff\xfe=%s"
LONG_ODD = b"d/" + b"\xe9" * 200
QUIET = "--warning=no-unknown-keyword"  # of hdrcharset, which a name as LONG_ODD needs


def sample(folder: Path) -> Path:
    """A container with every kind of member."""
    written = Written()
    writer = written.writer
    xattrs = ((b"user.a", b"1\n2\0"), (b"user.b=%", b"x" * 3000))
    writer.add(b"d/plain", record(size=5, xattrs=xattrs), b"hello")
    for name in (LONG, ODD, LONG_ODD):
        writer.add(name, record(size=len(name)), name)
    writer.begin(b"d/sparse", record(size=3 << 20), size=3 << 20)
    writer.hole(1 << 20)
    writer.data(b"mid")
    writer.hole((2 << 20) - 3)
    writer.end()
    writer.add(b"d/link", record(stat.S_IFLNK | 0o777, target=b"t" * 150))
    writer.add(b"d/pipe", record(stat.S_IFIFO | 0o600))
    writer.add(b"d/socket", record(stat.S_IFSOCK | 0o600))
    for number in (1, 2, 3):
        name = container.part_name(b"d/large", number, 3)
        writer.begin(b"d/large", record(size=9), start=3 * (number - 1), size=3, name=name)
        writer.data(b"%d%d%d" % (number, number, number))
        writer.end()
    writer.link(b"d/plain2", b"d/plain", metadentry.decode(record(size=5)))
    writer.add(b"d", record(stat.S_IFDIR | 0o710, mtime_ns=10**18 + 7))
    writer.add(b"", record(stat.S_IFDIR | 0o755))
    written.finish()
    path = folder / "c.tar"
    path.write_bytes(written.data)
    return path


def extract_with_gnu_tar(path: Path, target: Path) -> None:
    command = ["tar", "--xattrs", "-p", QUIET, "-xf", str(path), "-C", str(target)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def extract_with_python(path: Path, target: Path) -> None:
    with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as archive:
        archive.extraction_filter = lambda member, _: member
        archive.extractall(target)


@pytest.mark.parametrize("extract", [extract_with_gnu_tar, extract_with_python])
def test_ordinary_tar_restores_everything(extract: Callable[[Path, Path], None], tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    extract(sample(tmp_path), target)
    top = os.fsencode(target) + b"/"
    for name in (LONG, ODD, LONG_ODD):
        assert Path(os.fsdecode(top + name)).read_bytes() == name
    plain = os.stat(top + b"d/plain")
    assert (plain.st_mode, plain.st_nlink) == (stat.S_IFREG | 0o640, 2)
    assert plain.st_ino == os.stat(top + b"d/plain2").st_ino
    sparse = Path(os.fsdecode(top + b"d/sparse")).read_bytes()
    assert (len(sparse), sparse[1 << 20 : (1 << 20) + 3], sparse.count(0)) == (3 << 20, b"mid", (3 << 20) - 3)
    assert os.readlink(top + b"d/link") == b"t" * 150
    assert stat.S_ISFIFO(os.stat(top + b"d/pipe").st_mode)
    joined = subprocess.check_output("cat d/large.gkfs-part-*", shell=True, cwd=target)
    assert joined == b"111222333"
    assert stat.S_IMODE(os.stat(top + b"d").st_mode) == 0o710
    if extract is extract_with_gnu_tar:  # the other keeps no nanoseconds and no attributes
        assert plain.st_mtime_ns == NOW_NS
        assert os.stat(top + b"d").st_mtime_ns == 10**18 + 7
        assert os.getxattr(top + b"d/plain", "user.a") == b"1\n2\0"
        assert os.getxattr(top + b"d/plain", "user.b=%") == b"x" * 3000


def test_gnu_tar_finds_the_archive_without_fault_and_lists_all_members(tmp_path: Path) -> None:
    listed = subprocess.run(["tar", QUIET, "-tf", sample(tmp_path)], capture_output=True, check=True)
    assert listed.stderr == b""
    assert len(listed.stdout.splitlines()) == 13
