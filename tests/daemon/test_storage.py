"""Chunk storage, with real files and threads."""

import errno
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from gkfs.daemon import keys
from gkfs.daemon.guards import Blocked
from gkfs.daemon.storage import ChunkStorage
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.summed_storage import SummedStorage
from gkfs.hostfile import Sync
from gkfs.limits import CHUNK_SIZE_BYTES, INLINE_IO_MAX_BYTES, OPEN_CHUNKS_MAX

FID = 0x1_0001_0000_0007
LARGE = INLINE_IO_MAX_BYTES + 1


class Setting:
    """A storage that can be opened again."""

    def __init__(self, folder: Path, *, sums: bool = False, sync: Sync = Sync.FSYNC) -> None:
        self.folder = folder
        self.how = {"sums": sums, "sync": sync}
        self.store = MetadataStore(folder / "metadata", sync=sync)
        if sums:
            self.chunks: ChunkStorage = SummedStorage(folder / "chunks", self.store, (1, 0), sync=sync)
        else:
            self.chunks = ChunkStorage(folder / "chunks", self.store, sync=sync)

    def reopen(self) -> None:
        self.close()
        self.__init__(self.folder, **self.how)  # type: ignore[misc]

    def close(self) -> None:
        self.chunks.close()
        self.store.commit()
        self.store.close()

    async def write(self, chunk: int, offset: int, data: bytes, fid: int = FID) -> None:
        result = self.chunks.write(fid, chunk, offset, data)
        assert (result if isinstance(result, int) else await result) == len(data)

    async def read(self, chunk: int, offset: int = 0, length: int = CHUNK_SIZE_BYTES, fid: int = FID) -> bytes:
        result = self.chunks.read(fid, chunk, offset, length)
        return bytes(result if isinstance(result, bytes | bytearray | memoryview) else await result)

    async def cut(self, size: int, fid: int = FID) -> None:
        work = self.chunks.cut(fid, size)
        if work is not None:
            await work
        self.store.commit()

    def files(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in self.folder.glob("chunks/*/*")}


@pytest.fixture(params=["plain", "checksums"])
def setting(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Setting]:
    opened: list[Setting] = []

    async def make() -> None:
        opened.append(Setting(tmp_path, sums=request.param == "checksums"))

    trio.run(make)
    yield opened[0]
    opened[0].close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(60):
            await work()

    trio.run(main)


@pytest.mark.parametrize("size", [1, 4096, INLINE_IO_MAX_BYTES, LARGE, CHUNK_SIZE_BYTES])
def test_what_is_written_is_read(setting: Setting, size: int) -> None:
    async def test() -> None:
        data = os.urandom(size)
        await setting.write(3, CHUNK_SIZE_BYTES - size, data)
        assert await setting.read(3, CHUNK_SIZE_BYTES - size, size) == data
        assert setting.chunks.room.chunks_bytes == CHUNK_SIZE_BYTES

    run(test)


def test_holes_read_as_zeros_and_ends_are_short(setting: Setting) -> None:
    async def test() -> None:
        assert await setting.read(0) == b""
        await setting.write(0, 10, b"ab")
        assert await setting.read(0) == bytes(10) + b"ab"
        assert await setting.read(0, 11, 100) == b"b"
        assert await setting.read(0, 12, 100) == b""
        assert await setting.read(1) == b""

    run(test)


@pytest.mark.parametrize(
    ("chunk", "offset", "length"),
    [(0, -1, 1), (-1, 0, 1), (1 << 32, 0, 1), (0, 0, 0), (0, CHUNK_SIZE_BYTES, 1), (0, 1, CHUNK_SIZE_BYTES)],
)
def test_write_beyond_the_chunk_is_einval(setting: Setting, chunk: int, offset: int, length: int) -> None:
    with pytest.raises(OSError, match="cannot write") as caught:
        setting.chunks.write(FID, chunk, offset, bytes(length))
    assert caught.value.errno == errno.EINVAL
    assert setting.files() == {}


def test_cut_removes_chunks_and_shortens_the_border(setting: Setting) -> None:
    async def test() -> None:
        for chunk in range(3):
            await setting.write(chunk, 0, b"x" * 1000)
        await setting.write(0, 0, b"other", fid=FID + 1)
        await setting.cut(CHUNK_SIZE_BYTES + 10)
        assert await setting.read(0) == b"x" * 1000
        assert await setting.read(1) == b"x" * 10
        assert await setting.read(2) == b""
        # No old byte comes back when the file grows again.
        await setting.write(1, 500, b"y")
        assert await setting.read(1) == b"x" * 10 + bytes(490) + b"y"
        await setting.cut(0)
        assert setting.files() == {f"{FID + 1:016x}.00000000": 5}
        assert setting.chunks.room.chunks_bytes == 5
        assert setting.store.scan(*keys.chunk_range(FID, 0), 10) == []

    run(test)


def test_cut_of_many_chunks_in_a_thread(setting: Setting) -> None:
    async def test() -> None:
        for chunk in range(30):
            await setting.write(chunk, 0, b"x" * 100)
        await setting.cut(2 * CHUNK_SIZE_BYTES + 50)
        assert sorted(setting.files().values()) == [50, 100, 100]
        assert setting.chunks.room.chunks_bytes == 250
        assert len(setting.store.scan(*keys.chunk_range(FID, 0), 100)) == 3

    run(test)


def test_cut_waits_for_writes_in_flight_and_writes_for_the_cut(setting: Setting) -> None:
    async def test() -> None:
        write = setting.chunks.write(FID, 0, 0, b"x" * LARGE)
        assert not isinstance(write, int)
        cut = setting.chunks.cut(FID, 0)
        assert cut is not None
        for again in (lambda: setting.chunks.write(FID, 0, 0, b"y"), lambda: setting.chunks.cut(FID, 0)):
            with pytest.raises(Blocked) as caught:
                again()
        done: list[str] = []

        async def note(name: str, work: Any) -> None:
            await work
            done.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(note, "cut", cut)
            await trio.testing.wait_all_tasks_blocked()
            assert done == []
            nursery.start_soon(note, "write", write)
        assert done == ["write", "cut"]
        assert caught.value.guard.lifted.is_set()
        assert setting.files() == {}
        assert setting.chunks.room.chunks_bytes == 0

    run(test)


def test_open_file_survives_its_eviction_while_a_thread_works(setting: Setting) -> None:
    async def test() -> None:
        before = len(os.listdir("/proc/self/fd"))
        write = setting.chunks.write(FID, 0, 0, b"x" * LARGE)
        assert not isinstance(write, int)
        for chunk in range(1, OPEN_CHUNKS_MAX + 2):
            await setting.write(chunk, 0, b"y")
        assert await write == LARGE
        assert await setting.read(0, 0, LARGE) == b"x" * LARGE
        assert len(os.listdir("/proc/self/fd")) - before < OPEN_CHUNKS_MAX + 10

    run(test)


def test_sync_reaches_chunks_written_before_a_restart(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    original = os.fdatasync

    def spy(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}")[-8:])
        original(fd)

    monkeypatch.setattr(os, "fdatasync", spy)

    async def test() -> None:
        await setting.chunks.sync(FID)
        assert synced == []
        await setting.write(4, 0, b"x")
        await setting.write(2, 0, b"x")
        await setting.write(1, 0, b"x", fid=FID + 1)
        await setting.chunks.sync(FID)
        assert sorted(synced) == ["00000002", "00000004"]
        await setting.chunks.sync(FID)
        assert len(synced) == 2
        setting.reopen()
        await setting.chunks.sync(FID + 1)
        assert synced[2:] == ["00000001"]

    run(test)


def test_failed_sync_is_tried_again(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def test() -> None:
        await setting.write(0, 0, b"x")
        for _ in range(2):
            with monkeypatch.context() as patch:
                patch.setattr(os, "fdatasync", fail)
                with pytest.raises(OSError, match="Input/output"):
                    await setting.chunks.sync(FID)
        await setting.chunks.sync(FID)

    run(test)


def test_a_chunk_that_cannot_be_synced_does_not_keep_others_from_it(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    failing = "00000003"

    def fail_one(fd: int) -> None:
        chunk = os.readlink(f"/proc/self/fd/{fd}")[-8:]
        if chunk == failing:
            raise OSError(errno.EIO, "Input/output error")
        synced.append(chunk)

    monkeypatch.setattr(os, "fdatasync", fail_one)

    async def test() -> None:
        nonlocal failing
        for chunk in range(10):
            await setting.write(chunk, 0, b"x")
        with pytest.raises(OSError, match="Input/output"):
            await setting.chunks.sync(FID)
        assert sorted(synced) == [f"{chunk:08x}" for chunk in range(10) if chunk != 3]
        synced.clear()
        failing = ""
        await setting.chunks.sync(FID)
        assert synced == ["00000003"]

    run(test)


def test_syncs_of_one_file_overlap_and_end_when_all_is_on_the_disk(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = threading.Barrier(2)  # broken unless two come
    synced: list[int] = []

    def meet(fd: int) -> None:
        at_once.wait(10.0)
        synced.append(fd)

    monkeypatch.setattr(os, "fdatasync", meet)

    async def test() -> None:
        for chunk in range(8):
            await setting.write(chunk, 0, b"x")
        ends: list[int] = []

        async def sync() -> None:
            await setting.chunks.sync(FID)
            ends.append(len(synced))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sync)
            nursery.start_soon(sync)
        assert ends == [8, 8], "nobody is told before all chunks are on the disk"

    run(test)


def test_used_bytes_survive_a_restart(setting: Setting) -> None:
    async def test() -> None:
        await setting.write(0, 0, b"x" * 100)
        await setting.write(7, 50, b"x" * 100)
        setting.reopen()
        assert setting.chunks.room.chunks_bytes == 250
        await setting.write(7, 100, b"x" * 100)
        assert setting.chunks.room.chunks_bytes == 300

    run(test)


def test_full_disk_is_enospc_before_records_lack_room(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(setting.chunks.room, "_base_bytes", 1 << 60)
        for _ in range(2):
            with pytest.raises(OSError, match="No space") as caught:
                await setting.write(0, 0, b"x")
            assert caught.value.errno == errno.ENOSPC
        monkeypatch.undo()
        await setting.write(0, 0, b"x")

    run(test)


class Disk:
    """Which files and folders were synced, by their names' ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[str] = []
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._spy(getattr(os, name)))

    def _spy(self, original: Callable[[int], None]) -> Callable[[int], None]:
        def spy(fd: int) -> None:
            self.synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
            original(fd)

        return spy


@pytest.mark.parametrize("sums", [False, True])
def test_with_synced_commits_what_is_written_or_cut_is_on_the_disk_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sums: bool
) -> None:
    disk = Disk(monkeypatch)

    async def test() -> None:
        setting = Setting(tmp_path, sums=sums, sync=Sync.COMMIT)
        name = f"{FID:016x}.00000000"
        for size in (100, LARGE):
            await setting.write(0, 0, b"x" * size)
            assert disk.synced == [name]
            disk.synced.clear()
        await setting.cut(10)
        assert disk.synced == [name]
        await setting.cut(0)
        assert disk.synced[1:] == [f"{FID & 0xFF:02x}"]
        disk.synced.clear()
        work = setting.chunks.write_new(FID, b"y" * 100)
        assert work is None
        assert disk.synced == [name]
        setting.chunks.claim(FID)
        setting.close()

    run(test)


@pytest.mark.parametrize("sums", [False, True])
def test_without_sync_nothing_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sums: bool
) -> None:
    disk = Disk(monkeypatch)

    async def test() -> None:
        setting = Setting(tmp_path, sums=sums, sync=Sync.NONE)
        await setting.write(0, 0, b"x")
        await setting.chunks.sync(FID)
        assert disk.synced == []
        setting.close()

    run(test)
