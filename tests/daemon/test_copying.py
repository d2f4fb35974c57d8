"""The chunks of a primary, as they are shipped to a new mirror."""

import errno
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import trio

from gkfs.daemon import keys, mirrored_storage
from gkfs.daemon.guards import Blocked, Guard
from gkfs.daemon.mended_storage import MirroredSummedStorage
from gkfs.daemon.mirrored_storage import MirroredStorage
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.summed_storage import SummedStorage
from gkfs.errors import os_error
from gkfs.limits import CHECKSUM_BLOCK_BYTES, CHUNK_SIZE_BYTES
from gkfs.messages import Buffer

FID = 7
BAD = 3  # a block that the disk does not return


class Shipped:
    """In place of a `Mirror`; *data*: of the chunk."""

    def __init__(self) -> None:
        self.data = b""
        self.is_full = False

    def wrote(self, fid: int, chunk: int, offset: int, data: Buffer) -> None:
        self.data = bytes(data)

    def check_backlog(self) -> None:
        if self.is_full:
            raise Blocked(Guard("too much"))

    async def flushed(self) -> None:
        await trio.lowlevel.checkpoint()


Storages = type[MirroredStorage] | Callable[..., MirroredStorage]


def with_storage(
    folder: Path, make: Storages, test: Callable[[Any, Shipped, MetadataStore], Awaitable[None]]
) -> None:
    async def main() -> None:
        store = MetadataStore(folder / "metadata")
        storage: Any = make(folder / "chunks", store)
        storage.mirror = shipped = Shipped()
        await test(storage, shipped, store)
        storage.close()
        store.close()

    trio.run(main)


def summed(folder: Path, store: MetadataStore) -> MirroredStorage:
    return MirroredSummedStorage(folder, store, (1, 0))


def break_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_file(path: str) -> bytes:
        raise os_error(errno.EIO, path)

    def pread(fd: int, length: int, offset: int) -> bytes:
        if offset == BAD * CHECKSUM_BLOCK_BYTES:
            raise os_error(errno.EIO, "bad sector")
        return real(fd, length, offset)

    real = os.pread
    monkeypatch.setattr(mirrored_storage, "read_file", read_file)
    monkeypatch.setattr(os, "pread", pread)


async def done(work: object) -> None:
    if isinstance(work, Coroutine):
        await work


def test_a_new_file_that_is_being_written_is_copied_whole(tmp_path: Path) -> None:
    async def test(storage: Any, shipped: Shipped, store: MetadataStore) -> None:
        data = os.urandom(CHUNK_SIZE_BYTES)
        work = storage.write_new(FID, data)
        shipped.data = b""  # the copy begins after that
        async with trio.open_nursery() as nursery:
            nursery.start_soon(storage.copy_all)
            await trio.sleep(0.05)
            nursery.start_soon(done, work)
        assert shipped.data == data

    with_storage(tmp_path, MirroredStorage, test)


@pytest.mark.parametrize("checksums", [False, True])
def test_nothing_is_written_while_the_mirror_has_too_much(checksums: bool, tmp_path: Path) -> None:
    async def test(storage: Any, shipped: Shipped, store: MetadataStore) -> None:
        shipped.is_full = True
        with pytest.raises(Blocked):
            storage.write(FID, 0, 0, b"data")
        assert store.get(keys.chunk(FID, 0)) is None
        shipped.is_full = False
        await done(storage.write(FID, 0, 0, b"data"))
        assert shipped.data == b"data"

    with_storage(tmp_path, summed if checksums else MirroredStorage, test)


def test_without_checksums_what_cannot_be_read_cannot_be_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Zeros would be read as what was written."""

    async def test(storage: Any, shipped: Shipped, store: MetadataStore) -> None:
        await done(storage.write(FID, 0, 0, bytes(30_000)))
        with monkeypatch.context() as patch:
            break_a_block(patch)
            with pytest.raises(OSError, match="Input/output") as caught:
                await storage.copy_all()
            assert caught.value.errno == errno.EIO

    with_storage(tmp_path, MirroredStorage, test)
    assert "chunk 0 of file 7" in caplog.text


def test_with_checksums_the_rest_is_copied_and_the_block_is_damaged_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(30_001)

    async def test(storage: Any, shipped: Shipped, store: MetadataStore) -> None:
        await done(storage.write(FID, 0, 0, data))
        store.commit()
        with monkeypatch.context() as patch:
            break_a_block(patch)
            with pytest.raises(OSError, match="Input/output"):
                await storage.copy_all()  # its sums are not in the index yet
            storage._sums.store_all()
            await storage.copy_all()
        start, end = BAD * CHECKSUM_BLOCK_BYTES, (BAD + 1) * CHECKSUM_BLOCK_BYTES
        assert shipped.data == data[:start] + bytes(end - start) + data[end:]
        # As it is where the copy has been taken over:
        other = MetadataStore(tmp_path / "other")
        entry = store.get(keys.chunk(FID, 0))
        assert entry
        other.put_now(keys.chunk(FID, 0), entry)
        (tmp_path / "copy").mkdir()
        copy = SummedStorage(tmp_path / "copy", other, (2, 0))
        Path(copy._files.path(FID, 0)).write_bytes(shipped.data)
        assert copy.read(FID, 0, 0, start) == data[:start]
        with pytest.raises(OSError, match="not what was written") as caught:
            copy.read(FID, 0, start, 10)
        assert caught.value.errno == errno.EIO
        copy.close()
        other.close()

    with_storage(tmp_path, summed, test)
