"""Chunk storage with checksums: what is read is what was written, or EIO; no crash makes EIO of what is right."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import trio
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from gkfs.daemon import keys
from gkfs.daemon.block_sums import BLOCKS, ChunkSums, decode, differing, sums_of
from gkfs.limits import (
    CHUNK_SIZE_BYTES,
    SUMS_KEPT_CHUNKS,
    SUMS_UNSTORED_CHUNKS,
)
from tests.daemon.summed import BLOCK, FID, KEY, LARGE, Summed, damaged, done, run, summed

__all__ = ["summed"]  # a fixture


# --- sums


def test_sum_is_the_first_half_of_xxh3_of_the_block_filled_up_with_zeros() -> None:
    data = os.urandom(BLOCK + 100)
    expected = [xxhash.xxh3_64_digest(data[:BLOCK]), xxhash.xxh3_64_digest(data[BLOCK:] + bytes(BLOCK - 100))]
    assert sums_of(data) == b"".join(digest[:4] for digest in expected)


def test_stored_sums_end_with_the_last_block_that_is_no_hole() -> None:
    sums = ChunkSums(b"", is_stored=False)
    sums.replace(2, sums_of(b"x"))
    stored = decode(sums.stored(7))
    assert stored is not None
    assert (stored.epoch, len(stored.sums)) == (7, 12)
    sums.replace(2, sums_of(b"\0"))
    assert decode(sums.stored(7)) == (7, b"")
    for other in (b"", b"?", b"x", b"x\0\1abc", b"y\0\1"):
        assert decode(other) is None


# --- damage


@pytest.mark.parametrize("length", [1, BLOCK, LARGE, CHUNK_SIZE_BYTES])
def test_flipped_bit_is_eio_and_other_blocks_stay_readable(
    summed: Summed, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = os.urandom(CHUNK_SIZE_BYTES)
    bad = 5 * BLOCK + 77

    async def test() -> None:
        await summed.write(0, data)
        summed.flip(bad)
        assert await damaged(summed, min(bad, CHUNK_SIZE_BYTES - length), length)
        assert await summed.read(0, 5 * BLOCK) == data[: 5 * BLOCK]
        assert await summed.read(6 * BLOCK) == data[6 * BLOCK :]
        assert summed.chunks.damaged_blocks == 1
        assert await damaged(summed, bad, 1)
        assert summed.chunks.damaged_blocks == 1
        (line,) = caplog.messages
        assert f"chunk 0 of file {FID:x}: 1 blocks, at {5 * BLOCK} the first" in line
        assert str(summed.path()) in line

    run(test)


def test_overwriting_the_whole_block_heals_it_and_a_part_of_it_is_refused(summed: Summed) -> None:
    data = os.urandom(CHUNK_SIZE_BYTES)

    async def test() -> None:
        await summed.write(0, data)
        summed.flip(BLOCK)
        for offset, size in ((BLOCK + 10, 10), (BLOCK - 10, 20), (2 * BLOCK - 1, LARGE)):
            with pytest.raises(OSError, match="not what was written"):
                await summed.write(offset, b"y" * size)
        assert await summed.read(2 * BLOCK) == data[2 * BLOCK :]
        await summed.write(BLOCK, b"z" * BLOCK)
        assert await summed.read() == data[:BLOCK] + b"z" * BLOCK + data[2 * BLOCK :]
        summed.flip(BLOCK)
        assert await damaged(summed, 0, CHUNK_SIZE_BYTES)
        assert summed.chunks.damaged_blocks == 2

    run(test)


def test_damage_is_found_after_a_restart_too(tmp_path: Path) -> None:
    async def test() -> None:
        summed = Summed(tmp_path)
        await summed.write(0, b"x" * 3 * BLOCK)
        summed = summed.stop()
        summed.flip(BLOCK)
        assert await damaged(summed, BLOCK, 1)
        assert await summed.read(0, BLOCK) == b"x" * BLOCK
        summed.close()

    run(test)


@pytest.mark.parametrize("what", ["shorter", "gone", "longer", "another"])
def test_chunk_file_that_is_not_whole_is_eio(tmp_path: Path, what: str) -> None:
    async def test() -> None:
        summed = Summed(tmp_path)
        await summed.write(0, b"x" * 3 * BLOCK)
        await summed.write(0, b"y" * 3 * BLOCK, chunk=256)
        summed = summed.stop()
        if what == "shorter":
            os.truncate(summed.path(), 2 * BLOCK)
        elif what == "gone":
            summed.path().unlink()
        elif what == "longer":
            with summed.path().open("ab") as file:
                file.write(b"x")
        else:
            shutil.copy(summed.path(256), summed.path())
        assert await damaged(summed, 0, CHUNK_SIZE_BYTES)
        if what == "gone":  # a write makes the file anew; what was lost stays lost
            await summed.write(BLOCK, b"z" * BLOCK)
            assert await summed.read(BLOCK, BLOCK) == b"z" * BLOCK
            assert await damaged(summed, 0, BLOCK)
            summed = summed.stop()
            assert await damaged(summed, 2 * BLOCK, BLOCK)
        summed.close()

    run(test)


@pytest.mark.parametrize("size", [BLOCK // 2, 0], ids=["in part", "all of it"])
def test_who_writes_to_a_block_whose_end_was_lost_gets_an_error(tmp_path: Path, size: int) -> None:
    async def test() -> None:
        summed = Summed(tmp_path)
        await summed.write(0, b"x" * 2 * BLOCK)
        summed = summed.stop()
        os.truncate(summed.path(), BLOCK + size)
        for length in (BLOCK // 4, BLOCK - 1):
            with pytest.raises(OSError, match="not what was written"):
                await summed.write(BLOCK, b"y" * length)
        assert await damaged(summed, BLOCK, 1)
        await summed.write(BLOCK, b"z" * BLOCK)
        assert await summed.read() == b"x" * BLOCK + b"z" * BLOCK
        summed.close()

    run(test)


def test_what_a_cut_leaves_of_a_damaged_block_is_damaged(summed: Summed) -> None:
    async def test() -> None:
        await summed.write(0, b"x" * 3 * BLOCK)
        summed.flip(BLOCK)
        await summed.cut(BLOCK + 100)
        assert await damaged(summed, BLOCK, 100)
        assert await summed.read(0, BLOCK) == b"x" * BLOCK
        await summed.cut(BLOCK)
        assert await summed.read() == b"x" * BLOCK

    run(test)


def test_damage_of_all_chunks_is_listed(tmp_path: Path) -> None:
    async def test() -> None:
        summed = Summed(tmp_path)
        for chunk in range(5):
            await summed.write(0, b"x" * 3 * BLOCK, chunk=chunk)
        summed = summed.stop()
        summed.flip(BLOCK, chunk=1)
        summed.flip(2 * BLOCK, chunk=1)
        summed.path(3).unlink()
        reply = await summed.chunks.damage(b"")
        assert reply == ([keys.chunk(FID, 1), keys.chunk(FID, 3)], [2, 3], [BLOCK, 0], 5, b"")
        assert summed.chunks.damaged_blocks == 5
        later = await summed.chunks.damage(keys.chunk(FID, 1))
        assert (later.keys, later.checked) == ([keys.chunk(FID, 3)], 3)
        summed.close()

    run(test)


def test_checksum_of_a_damaged_chunk_is_eio(summed: Summed) -> None:
    async def test() -> None:
        await summed.write(0, b"x" * LARGE)
        assert await summed.chunks.digests([(FID, 0, LARGE), (FID, 1, 10)]) != [b"", b""]
        summed.flip(BLOCK)
        with pytest.raises(OSError, match="not what was written"):
            await summed.chunks.digests([(FID, 0, LARGE)])

    run(test)


def test_chunk_that_came_with_its_record_has_checksums(tmp_path: Path) -> None:
    async def test() -> None:
        summed = Summed(tmp_path)
        for fid, size in ((FID, BLOCK + 5), (FID + 1, LARGE)):
            work = summed.chunks.write_new(fid, b"n" * size)
            if work is not None:
                await work
            summed.chunks.claim(fid)
        summed.store.commit()
        summed = summed.kill()
        assert await summed.read() == b"n" * (BLOCK + 5)
        summed.flip(BLOCK)
        assert await damaged(summed, 0, BLOCK + 5)
        summed.close()

    run(test)


# --- crashes


def test_what_a_kill_tears_is_readable_and_so_is_what_is_beside_it(tmp_path: Path) -> None:
    """Data and checksums do not change as one: the data of the last write are there, its checksum never was."""

    async def test() -> None:
        summed = Summed(tmp_path)
        await summed.write(0, b"a" * CHUNK_SIZE_BYTES)
        summed.calm()
        assert decode(summed.store.get(KEY) or b"") is not None
        await summed.write(BLOCK, b"b" * BLOCK)
        assert summed.store.get(KEY) == b""
        with summed.path().open("r+b") as file:  # and one that was under way
            file.seek(2 * BLOCK)
            file.write(b"c" * 100)
        summed = summed.kill()
        data = await summed.read()
        assert data[:BLOCK] == b"a" * BLOCK
        assert data[BLOCK : 2 * BLOCK + 100] == b"b" * BLOCK + b"c" * 100
        assert data[2 * BLOCK + 100 :] == b"a" * (CHUNK_SIZE_BYTES - 2 * BLOCK - 100)
        summed.calm()
        summed.flip(0)
        assert await damaged(summed, 0, 1)
        summed.close()

    run(test)


def test_after_a_power_failure_what_differs_is_taken_as_it_is_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        summed = Summed(tmp_path)
        await summed.write(0, b"a" * 4 * BLOCK)
        summed = summed.stop()
        summed.flip(BLOCK)  # a write that reached the disk, of which the index has nothing
        summed.close()
        summed = Summed(tmp_path, epoch=3, power_epoch=2)
        assert len(await summed.read()) == 4 * BLOCK
        assert "1 blocks differ from their checksums since the node went down" in caplog.text
        summed.calm()
        summed.flip(0)
        assert await damaged(summed, 0, 1)
        summed.close()

    run(test)


def test_chunks_without_checksums_get_them_in_the_background(tmp_path: Path) -> None:
    async def test() -> None:
        summed = Summed(tmp_path)
        for chunk in range(3):
            await summed.write(0, b"x" * BLOCK, chunk=chunk)
        summed = summed.kill()
        await summed.chunks._sum_unsummed()
        summed.calm()
        values = [summed.store.get(keys.chunk(FID, chunk)) or b"" for chunk in range(3)]
        assert [decode(value) for value in values] == [(2, sums_of(b"x" * BLOCK))] * 3
        summed.close()

    run(test)


def test_failed_write_leaves_what_there_is_readable(summed: Summed, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def half(fd: int, data: Any, offset: int) -> int:
        real(fd, memoryview(data)[: len(data) // 2], offset)
        raise OSError(errno.EIO, "Input/output error")

    async def test() -> None:
        await summed.write(0, b"a" * CHUNK_SIZE_BYTES)
        for size in (3 * BLOCK, LARGE):
            with monkeypatch.context() as patch:
                patch.setattr(os, "pwrite", half)
                with pytest.raises(OSError, match="Input/output"):
                    await summed.write(BLOCK, b"b" * size)
            data = await summed.read()
            assert data[:BLOCK] + data[BLOCK + size :] == b"a" * (CHUNK_SIZE_BYTES - size)

    run(test)


# --- bounds


def test_only_so_many_checksums_are_in_memory_or_not_stored(
    summed: Summed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gkfs.daemon.sum_table.SUMS_KEPT_CHUNKS", 40)
    monkeypatch.setattr("gkfs.daemon.sum_table.SUMS_UNSTORED_CHUNKS", 20)
    assert SUMS_UNSTORED_CHUNKS < SUMS_KEPT_CHUNKS

    async def test() -> None:
        for chunk in range(200):
            await summed.write(0, b"%d" % chunk, chunk=chunk)
            assert len(summed.chunks._sums._kept) <= 41
            assert len(summed.chunks._sums._unstored) <= 21
        for chunk in range(200):
            assert await summed.read(chunk=chunk) == b"%d" % chunk

    run(test)


# --- at the same time


def test_overlapping_reads_and_writes_in_threads_are_never_eio(summed: Summed) -> None:
    async def writer(number: int) -> None:
        for turn in range(30):
            offset = (number * 7 + turn * 13) % 64 * BLOCK + (turn % 3) * 100
            size = (100, BLOCK, LARGE, 3 * LARGE)[(number + turn) % 4]
            await summed.write(offset, bytes([number]) * size)

    async def reader(number: int) -> None:
        for turn in range(60):
            offset = (number * 5 + turn * 3) % 100 * BLOCK + turn
            await summed.read(offset, (1, BLOCK, LARGE, CHUNK_SIZE_BYTES - offset)[turn % 4])

    async def cutter() -> None:
        for turn in range(20):
            await done(lambda size=turn * 7777: summed.chunks.cut(FID, size))  # type: ignore[misc]
            summed.store.commit()
            await trio.sleep(0.001)

    async def test() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(writer, number)
                nursery.start_soon(reader, number)
            nursery.start_soon(cutter)
        summed.calm()
        assert (await summed.chunks.damage(b"")).keys == []
        assert summed.chunks.damaged_blocks == 0

    run(test)


_OFFSETS = st.one_of(st.integers(0, CHUNK_SIZE_BYTES - 1), st.integers(0, BLOCKS - 1).map(lambda n: n * BLOCK))
_SIZES = st.one_of(st.integers(1, 3 * BLOCK), st.integers(1, CHUNK_SIZE_BYTES), st.sampled_from([BLOCK, LARGE]))
_STEPS = st.one_of(
    st.tuples(st.just("write"), _OFFSETS, _SIZES),
    st.tuples(st.just("cut"), st.one_of(_OFFSETS, st.just(0)), st.just(0)),
    st.tuples(st.just("read"), _OFFSETS, _SIZES),
    st.tuples(st.sampled_from(["calm", "stop", "kill"]), st.just(0), st.just(0)),
)


@given(st.lists(_STEPS, max_size=25), st.integers(0, CHUNK_SIZE_BYTES - 1))
@settings(deadline=None, max_examples=40)
def test_random_writes_cuts_and_restarts_read_as_a_model_of_bytes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]], flipped: int
) -> None:
    folder = tmp_path_factory.mktemp("random")

    async def test() -> None:
        summed = Summed(folder)
        model = b""
        for number, (what, offset, size) in enumerate(steps):
            if what == "write":
                data = bytes([number + 1]) * min(size, CHUNK_SIZE_BYTES - offset)
                await summed.write(offset, data)
                model = model[:offset].ljust(offset, b"\0") + data + model[offset + len(data) :]
            elif what == "cut":
                await summed.cut(offset)
                model = model[:offset]
            elif what == "read":
                length = min(size, CHUNK_SIZE_BYTES - offset)
                assert await summed.read(offset, length) == model[offset : offset + length]
            elif what == "calm":
                summed.calm()
            else:
                summed = summed.stop() if what == "stop" else summed.kill()
        assert await summed.read() == model
        summed.calm()
        if flipped < len(model):
            summed.flip(flipped)
            assert await damaged(summed, flipped, 1)
        summed.close()

    run(test)
    shutil.rmtree(folder)


def test_rows_that_differ_are_named() -> None:
    assert differing(b"aaaabbbbcccc", b"aaaabbbXcccX") == [1, 2]
    assert differing(b"", b"") == []
