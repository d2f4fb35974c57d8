"""The copy of a shard: when it begins, and whose changes it takes."""

import errno
import fcntl
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio
import trio.testing

from gkfs.commands import hostfiles
from gkfs.copy_messages import (
    CopyBeginRequest,
    CopyChunkRequest,
    CopyCutRequest,
    CopyPingRequest,
    CopyReadReply,
    CopyReadRequest,
    CopyRecordsRequest,
)
from gkfs.daemon import keys
from gkfs.daemon.copies import Copies
from gkfs.daemon.session import Session
from gkfs.daemon.superblock import Rootdir
from gkfs.hostfile import read
from gkfs.keyfile import Key

SHARD, FID = 3, 7
EARLIER, LATER = Session(b"earlier", "copy"), Session(b"later", "copy")
DATA = CopyChunkRequest(SHARD, FID, 0, 0, b"new")


def run(folder: Path, check: Callable[[Copies], Awaitable[None]]) -> None:
    async def main() -> None:
        hostfile = folder / "hosts"
        if not hostfile.exists():
            hostfiles.create(hostfile, "a" * 32, 1, Key(b"k" * 32))
        rootdir = Rootdir(folder / "d", read(hostfile), 0)
        async with trio.open_nursery() as nursery:
            copies = Copies(rootdir.path, rootdir.superblock, nursery, direct_io=False)
            copies.check_addressed = lambda process: None
            copies.is_needed = copies.is_closed = lambda shard: False
            await check(copies)
            copies.close()
        rootdir.close()

    trio.run(main)


def contents(copies: Copies, session: Session) -> bytes:
    reply = copies.read(session, CopyReadRequest(SHARD, FID, 0, 0, 9))
    assert isinstance(reply, CopyReadReply)
    return bytes(reply.data)


def test_what_an_earlier_connection_has_sent_and_comes_late_is_not_taken(tmp_path: Path) -> None:
    async def check(copies: Copies) -> None:
        for session in (EARLIER, LATER):
            copies.begin(session, CopyBeginRequest(0, SHARD, 1, 0))
        copies.chunk(LATER, DATA)
        attempts: tuple[Callable[[], object], ...] = (
            lambda: copies.chunk(EARLIER, DATA._replace(data=b"old")),
            lambda: copies.cut(EARLIER, CopyCutRequest(SHARD, FID, 0)),
            lambda: copies.records(EARLIER, CopyRecordsRequest(SHARD, 1, True, msgpack.packb([b"k", b"v"]))),
            lambda: copies.ping(EARLIER, CopyPingRequest(SHARD)),
        )
        for late in attempts:
            with pytest.raises(OSError, match="another connection") as caught:
                late()
            assert caught.value.errno == errno.ESTALE
        assert contents(copies, LATER) == b"new"
        copy = copies.get(SHARD)
        assert copy is not None
        assert copy.seq == 0

    run(tmp_path, check)


def test_a_new_copy_begins_when_no_thread_works_on_the_old_one(tmp_path: Path) -> None:
    async def check(copies: Copies) -> None:
        copies.begin(EARLIER, CopyBeginRequest(0, SHARD, 1, 0))
        large = copies.chunk(EARLIER, DATA._replace(data=bytes(1 << 20)))
        assert isinstance(large, Coroutine), "a thread writes it"
        begun = copies.begin(LATER, CopyBeginRequest(0, SHARD, 1, 0))
        assert isinstance(begun, Coroutine)
        with pytest.raises(OSError, match="another connection"):
            copies.chunk(EARLIER, DATA)
        with pytest.raises(OSError, match="being begun anew"):
            copies.chunk(LATER, DATA)  # it would be confirmed, and thrown away
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run, begun)
            await trio.testing.wait_all_tasks_blocked()
            assert copies.get(SHARD) is not None
            copies.ping(LATER, CopyPingRequest(SHARD))
            await large
        assert contents(copies, LATER) == b""

    run(tmp_path, check)


def test_what_could_not_be_begun_is_removed_unless_a_daemon_uses_it(tmp_path: Path) -> None:
    async def check(copies: Copies) -> None:
        folder = copies.folder(SHARD)
        folder.mkdir(parents=True)
        (folder / "lock").touch()
        lock = os.open(folder / "lock", os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="still ending") as caught:
            copies.begin(EARLIER, CopyBeginRequest(0, SHARD, 1, 0))
        assert caught.value.errno == errno.ESTALE
        os.close(lock)
        copies.begin(EARLIER, CopyBeginRequest(0, SHARD, 1, 0))
        copies.ping(EARLIER, CopyPingRequest(SHARD))

    run(tmp_path, check)


def test_what_nobody_has_claimed_yet_stays(tmp_path: Path) -> None:
    """Its primary may be about to, and does not send it again because the mirror has been restarted."""
    records = [keys.chunk(FID, 0), keys.UNCLAIMED]

    async def begin(copies: Copies) -> None:
        copies.begin(LATER, CopyBeginRequest(0, SHARD, 1, 0))
        copies.records(LATER, CopyRecordsRequest(SHARD, 1, True, msgpack.packb(records)))
        copies.chunk(LATER, DATA)

    async def claim(copies: Copies) -> None:
        copies.resume({SHARD}, set())
        claimed = [keys.chunk(FID, 0), b""]
        copies.records(LATER, CopyRecordsRequest(SHARD, 2, True, msgpack.packb(claimed)))
        assert contents(copies, LATER) == b"new"

    run(tmp_path, begin)
    run(tmp_path, claim)


async def _run(work: Coroutine[Any, Any, object]) -> None:
    await work


def test_after_a_restart_the_copy_belongs_to_who_goes_on_with_it(tmp_path: Path) -> None:
    async def begin(copies: Copies) -> None:
        copies.begin(LATER, CopyBeginRequest(0, SHARD, 1, 0))
        copies.chunk(LATER, DATA)

    async def go_on(copies: Copies) -> None:
        copies.resume({SHARD}, set())
        assert contents(copies, LATER) == b"new"
        with pytest.raises(OSError, match="another connection"):
            copies.chunk(EARLIER, DATA._replace(data=b"old"))

    run(tmp_path, begin)
    run(tmp_path, go_on)
