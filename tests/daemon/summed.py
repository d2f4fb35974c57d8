"""A chunk storage with checksums, and ways to damage what it has stored."""

import errno
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from gkfs.daemon import keys
from gkfs.daemon.guards import Blocked
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.sum_table import SumTable
from gkfs.daemon.summed_storage import SummedStorage
from gkfs.limits import (
    CHECKSUM_BLOCK_BYTES,
    CHUNK_SIZE_BYTES,
    INLINE_IO_MAX_BYTES,
)

FID: Final = 0x1_0001_0000_0007
BLOCK: Final = CHECKSUM_BLOCK_BYTES
LARGE: Final = INLINE_IO_MAX_BYTES + BLOCK
KEY: Final = keys.chunk(FID, 0)


class Summed:
    """A storage with checksums that can be killed and opened again."""

    def __init__(self, folder: Path, epoch: int = 1, power_epoch: int = 0) -> None:
        self.folder = folder
        self.epoch = epoch
        self.power_epoch = power_epoch
        self.store = MetadataStore(folder / "metadata")
        self.chunks = SummedStorage(folder / "chunks", self.store, (epoch, power_epoch))

    def close(self) -> None:
        self.chunks.close()
        self.store.close()

    def stop(self) -> "Summed":
        """Stopped in order, and started again."""
        self.close()
        return Summed(self.folder, self.epoch + 1, self.power_epoch)

    def kill(self) -> "Summed":
        """Killed: what is only in memory is lost; and started again."""
        self.chunks._sums = SumTable(self.store, 0, 0)
        self.close()
        return Summed(self.folder, self.epoch + 1, self.power_epoch)

    async def write(self, offset: int, data: bytes, chunk: int = 0) -> None:
        await done(lambda: self.chunks.write(FID, chunk, offset, data))

    async def read(self, offset: int = 0, length: int = CHUNK_SIZE_BYTES, chunk: int = 0) -> bytes:
        length = min(length, CHUNK_SIZE_BYTES - offset)
        return bytes(await done(lambda: self.chunks.read(FID, chunk, offset, length)))

    async def cut(self, size: int) -> None:
        work = self.chunks.cut(FID, size)
        if work is not None:
            await work
        self.store.commit()

    def calm(self) -> None:
        """All checksums get stored, as they are a while after the last write."""
        self.chunks._store_calm()
        self.chunks._store_calm()

    def path(self, chunk: int = 0) -> Path:
        return Path(self.chunks._files.path(FID, chunk))

    def flip(self, offset: int, chunk: int = 0) -> None:
        """One bit of the chunk's file rots."""
        with self.path(chunk).open("r+b") as file:
            file.seek(offset)
            (byte,) = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ 4]))


async def done(work: Callable[[], Any]) -> Any:
    """The outcome of a handler's work, as the dispatcher has it."""
    while True:
        try:
            result = work()
            return await result if isinstance(result, Awaitable) else result
        except Blocked as blocked:
            await blocked.guard.lifted.wait()


@pytest.fixture
def summed(tmp_path: Path) -> Iterator[Summed]:
    opened: list[Summed] = []

    async def make() -> None:
        opened.append(Summed(tmp_path))

    trio.run(make)
    yield opened[0]
    opened[0].close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(120):
            await work()

    trio.run(main)


async def damaged(summed: Summed, offset: int, length: int) -> bool:
    """Whether a read is EIO."""
    try:
        await summed.read(offset, length)
    except OSError as error:
        return error.errno == errno.EIO
    return False
