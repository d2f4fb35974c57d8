"""Large pieces past the page cache, with real files: the same bytes however aligned, also mixed with small I/O."""

import os
import shutil
import subprocess
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from gkfs.buffers import BLOCK_BYTES, aligned, is_aligned
from gkfs.daemon import direct_io
from gkfs.daemon.storage import ChunkStorage
from gkfs.daemon.store import MetadataStore
from gkfs.limits import CHUNK_SIZE_BYTES, DIRECT_IO_MIN_BYTES

FID = 0x1_0001_0000_0007
DISK = Path("/var/tmp")  # /tmp may be in memory


def pages_cached(path: Path) -> int:
    """How many of the file's pages are in the page cache, by fincore(1) of util-linux."""
    done = subprocess.run(["fincore", "--noheadings", "--output", "PAGES", path], capture_output=True, check=True)
    return int(done.stdout)


@pytest.mark.parametrize("length", [2, 4096, 5000, 100_000])
def test_aligned_memory_begins_at_a_block(length: int) -> None:
    view = aligned(length)
    assert len(view) == length
    assert is_aligned(view)
    assert not is_aligned(view[1:])
    assert not is_aligned(bytes(view))


def test_a_folder_where_nothing_can_be_made_has_no_direct_io() -> None:
    assert not direct_io.works_in(Path("/proc"))


@given(
    offset=st.sampled_from([0, 1, 512, BLOCK_BYTES, 3 * BLOCK_BYTES, 5000]),
    length=st.integers(1, 600_000),
    start=st.sampled_from([0, 1, 32, BLOCK_BYTES]),
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_whatever_the_alignment(offset: int, length: int, start: int) -> None:
    data = os.urandom(length)
    memory = aligned(start + length)
    memory[start:] = data
    path = DISK / f"gkfs-test-direct-io-{os.getpid()}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    path.unlink()
    try:
        for given_data in (data, memory[start:]):
            os.ftruncate(fd, 0)
            direct_io.write_large(fd, given_data, offset)
            assert os.fstat(fd).st_size == offset + length
            assert os.pread(fd, length + 1, offset) == data
            assert bytes(direct_io.read_large(fd, length, offset)) == data
            assert bytes(direct_io.read_large(fd, CHUNK_SIZE_BYTES, offset)) == data, "short at the end"
            assert not any(os.pread(fd, offset, 0)), "a hole before it"
    finally:
        os.close(fd)


def test_large_pieces_stay_out_of_the_page_cache_until_they_are_read_again() -> None:
    folder = DISK / f"gkfs-test-direct-io-{os.getpid()}"
    folder.mkdir()
    store = MetadataStore(folder / "metadata")
    storage = ChunkStorage(folder / "chunks", store)
    data = os.urandom(CHUNK_SIZE_BYTES)
    try:
        assert direct_io.works_in(folder)
        path = Path(storage._files.path(FID, 0))
        assert done(storage.write(FID, 0, 0, data)) == len(data)
        assert pages_cached(path) == 0
        for cached in (False, True, True):
            assert bytes(done(storage.read(FID, 0, 0, len(data)))) == data
            assert bool(pages_cached(path)) == cached
        # Small I/O beside it, in both orders.
        for offset in (0, 4097, CHUNK_SIZE_BYTES - 3):
            piece = os.urandom(3)
            assert storage.write(FID, 0, offset, piece) == 3
            data = data[:offset] + piece + data[offset + 3 :]
            assert bytes(done(storage.read(FID, 0, 0, len(data)))) == data
        half = os.urandom(DIRECT_IO_MIN_BYTES)
        done(storage.write(FID, 0, BLOCK_BYTES, half))
        data = data[:BLOCK_BYTES] + half + data[BLOCK_BYTES + len(half) :]
        assert bytes(done(storage.read(FID, 0, 4000, 300))) == data[4000:4300]
        assert bytes(done(storage.read(FID, 0, 0, len(data)))) == data
    finally:
        storage.close()
        store.close()
        shutil.rmtree(folder)


def done(result: Any) -> Any:
    """What the storage returned, or what its coroutine returns."""
    if not isinstance(result, Coroutine):
        return result
    work = result

    async def wait() -> Any:
        return await work

    return trio.run(wait)
