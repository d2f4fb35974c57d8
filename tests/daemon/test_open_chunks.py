"""Chunk files are closed for room, also while threads work on them, and each chunk is open once all the same."""

import errno
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from gkfs.daemon.open_chunks import ChunkFile
from gkfs.daemon.storage import ChunkStorage
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.summed_storage import SummedStorage
from gkfs.limits import CHECKSUM_BLOCK_BYTES, INLINE_IO_MAX_BYTES
from tests.daemon.summed import FID, done, run

BLOCK = CHECKSUM_BLOCK_BYTES
LARGE = INLINE_IO_MAX_BYTES + BLOCK
START = 2 * LARGE  # of the large write, behind a hole
FILES_MAX = 3
CHUNK = 0  # the one that is in use
OTHERS = FID + 1  # whose chunks are opened meanwhile


class Held:
    """An operation in a thread, which is not done before it is told to; *late*: done, but it has not returned."""

    def __init__(self, original: Callable[..., Any], *, late: bool) -> None:
        self._original = original
        self._late = late
        self._go = threading.Event()
        self._is_there = threading.Event()

    def __call__(self, *arguments: Any) -> Any:
        result = self._original(*arguments) if self._late else None
        self._is_there.set()
        assert self._go.wait(30.0)
        return result if self._late else self._original(*arguments)

    async def is_there(self) -> None:
        assert await trio.to_thread.run_sync(self._is_there.wait, 30.0)

    def go(self) -> None:
        self._go.set()


class Few:
    """A storage that keeps few chunk files open."""

    def __init__(self, folder: Path, *, sums: bool) -> None:
        self.store = MetadataStore(folder / "metadata")
        self.folder = folder / "chunks"
        if sums:
            self.chunks: ChunkStorage = SummedStorage(self.folder, self.store, (1, 0), files_max=FILES_MAX)
        else:
            self.chunks = ChunkStorage(self.folder, self.store, files_max=FILES_MAX)

    def close(self) -> None:
        self.chunks.close()
        self.store.close()

    async def write(self, offset: int, data: bytes) -> None:
        await done(lambda: self.chunks.write(FID, CHUNK, offset, data))

    async def read(self, offset: int, length: int) -> bytes:
        return bytes(await done(lambda: self.chunks.read(FID, CHUNK, offset, length)))

    def open_others(self, count: int = FILES_MAX) -> None:
        for chunk in range(count):
            assert self.chunks.write(OTHERS, chunk, 0, b"other") == 5

    def get(self) -> ChunkFile:
        file = self.chunks._files.get(FID, CHUNK, create=False)
        assert file is not None
        return file

    def descriptors(self) -> list[str]:
        """Of chunk files: their names."""
        return [Path(path).name for path in _opened() if path.startswith(str(self.folder))]

    def counts_what_there_is(self) -> bool:
        return self.chunks.room.chunks_bytes == sum(path.stat().st_size for path in self.folder.glob("*/*"))

    @asynccontextmanager
    async def writing(self, data: bytes) -> AsyncIterator[None]:
        """A thread is about to write *data* to the chunk at `START`, and does at the end."""
        held = Held(self.chunks._write_large, late=False)
        self.chunks._write_large = held
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.write, START, data)
            try:
                await held.is_there()
                yield
            finally:
                held.go()

    @asynccontextmanager
    async def reading(self, length: int) -> AsyncIterator[None]:
        """A thread has read the chunk, and returns at the end."""
        held = Held(os.pread, late=True)
        self.chunks._read_large = held
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.read, 0, length)
            try:
                await held.is_there()
                yield
            finally:
                held.go()


def _opened() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the one that has listed them
            continue


@pytest.fixture(params=["plain", "checksums"])
def few(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Few]:
    opened: list[Few] = []

    async def make() -> None:
        opened.append(Few(tmp_path, sums=request.param == "checksums"))

    trio.run(make)
    yield opened[0]
    opened[0].close()
    assert opened[0].descriptors() == []


@pytest.mark.parametrize("request_meanwhile", ["read", "write", "sync"])
def test_what_a_thread_wrote_is_read_although_its_file_was_closed_for_room(
    few: Few, request_meanwhile: str
) -> None:
    data = os.urandom(LARGE)
    small = os.urandom(BLOCK)

    async def test() -> None:
        await few.write(0, small)
        async with few.writing(data):
            few.open_others()
            if request_meanwhile == "read":
                assert await few.read(0, BLOCK) == small
            elif request_meanwhile == "write":
                await few.write(BLOCK, small)
            else:
                await few.chunks.sync(FID)
        assert await few.read(START, LARGE) == data
        assert await few.read(0, BLOCK) == small
        assert few.counts_what_there_is()

    run(test)


def test_chunk_that_a_write_makes_is_open_once(few: Few) -> None:
    data = os.urandom(LARGE)
    end = os.urandom(10)

    async def test() -> None:
        async with few.writing(data):
            file = few.get()
            for _ in range(2):
                few.open_others()
                assert few.get() is file
        assert few.get() is file
        assert file.size == START + LARGE
        await few.write(START + LARGE, end)  # no hole before it, and with checksums nothing that is missing
        assert await few.read(START + BLOCK, LARGE) == data[BLOCK:] + end
        assert few.counts_what_there_is()
        few.open_others()
        assert few.get() is not file, "it is not in use any more"
        assert few.get().size == START + LARGE + len(end)

    run(test)


def test_files_in_use_are_open_beyond_the_bound_and_closed_when_nobody_uses_them(few: Few) -> None:
    async def test() -> None:
        async with few.writing(os.urandom(LARGE)):
            few.open_others()
            assert len(few.descriptors()) == FILES_MAX + 1
            few.open_others(2 * FILES_MAX)
            assert len(few.descriptors()) == FILES_MAX + 1
        assert len(few.descriptors()) == FILES_MAX
        assert few.descriptors().count(f"{FID:016x}.{CHUNK:08x}") == 0

    run(test)


def test_when_descriptors_lack_a_file_in_use_is_found_again(few: Few, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(LARGE)
    opens = os.open

    def lack(path: str, *arguments: int) -> int:
        if len(few.descriptors()) > 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return opens(path, *arguments)

    async def test() -> None:
        async with few.writing(data):
            few.open_others(1)
            file = few.get()
            few.open_others(1)
            with monkeypatch.context() as patch:
                patch.setattr(os, "open", lack)
                few.open_others(2)
                assert len(few.descriptors()) == 2
                assert few.get() is file, "it takes no descriptor"
        assert await few.read(START, LARGE) == data
        assert few.counts_what_there_is()

    run(test)


@pytest.mark.parametrize("kept", [0, BLOCK, BLOCK + 10])
def test_after_a_cut_a_file_that_was_closed_for_room_is_another(few: Few, kept: int) -> None:
    data = os.urandom(LARGE)

    async def test() -> None:
        await few.write(0, data)
        async with few.reading(LARGE):
            old = few.get()
            few.open_others()
            assert few.chunks.cut(FID, kept) is None
            few.store.commit()
            assert old.dropped
            assert await few.read(0, LARGE) == data[:kept]
            await few.write(2 * BLOCK, b"new")
            new = few.get()
            assert new is not old
            few.open_others()
        assert await few.read(0, LARGE) == data[:kept].ljust(2 * BLOCK, b"\0") + b"new"
        assert few.counts_what_there_is()
        assert len(few.descriptors()) == FILES_MAX

    run(test)


def test_who_used_a_file_before_the_cut_does_not_close_that_of_who_uses_it_after(few: Few) -> None:
    async def test() -> None:
        await few.write(0, os.urandom(LARGE))
        old = few.get()
        old.users += 1
        assert few.chunks.cut(FID, 0) is None
        few.store.commit()
        async with few.writing(b"x" * LARGE):
            new = few.get()
            few.open_others()
            few.chunks._files.release(old)
            assert few.get() is new
            os.fstat(new.fd)
        assert await few.read(START, LARGE) == b"x" * LARGE
        assert few.counts_what_there_is()

    run(test)
