"""Calls within the process: the outcomes that messages have, without them."""

import errno
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from gkfs import metadentry
from gkfs.channel import Call
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.guards import Blocked, Guard
from gkfs.daemon.local import LocalClient
from gkfs.daemon.mirror import Mirror
from gkfs.daemon.server import DaemonSettings, Serving, serve
from gkfs.daemon.session import Session, Sessions
from gkfs.daemon.store import MetadataStore
from gkfs.errors import os_error
from gkfs.messages import (
    CreateRequest,
    Empty,
    LookupRequest,
    ReadChunkRequest,
    RecordReply,
    StatRequest,
    TruncateRequest,
    UnlinkRequest,
    WriteChunkRequest,
)
from gkfs.metadentry import ROOT_FID
from gkfs.operations import CREATE, LOOKUP, READ_CHUNK, SEAL, STAT, TRUNCATE, UNLINK, WRITE_CHUNK
from gkfs.peer_messages import SealRequest
from tests.hosts import write_hosts

MIB = 1 << 20
CREATION = CreateRequest(b"/a", ROOT_FID, 0o100644, 0, 0, 0, True, b"", 1)


class Waker:
    """Stands for the pump: counts how often it was woken."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


async def done(call: Call[Any], limit_s: float = 5.0) -> Any:
    """The outcome of a call that may take a while."""
    finished = trio.Event()
    if not call.done:
        call.on_done = finished.set
        with trio.fail_after(limit_s):
            await finished.wait()
    return call.result()


@asynccontextmanager
async def in_process(folder: Path) -> AsyncIterator[tuple[LocalClient, Waker]]:
    """A client of a real daemon in this process, which has ended afterwards."""
    path = folder / "hosts"
    write_hosts(path, "a" * 32, 1)
    stop, waker = trio.Event(), Waker()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            daemon = partial(serve, DaemonSettings(folder / "d", path, 0), stop=stop)
            serving: Serving = await nursery.start(daemon)
            client = serving.connect(b"c" * 16, waker)
            assert isinstance(client, LocalClient)
            yield client, waker
            stop.set()


def with_daemon(test: Callable[[LocalClient, Waker], Awaitable[None]]) -> Callable[[Path], None]:
    """Make *test* a test, with a client of a real daemon in the same process."""

    def run(tmp_path: Path) -> None:
        async def main() -> None:
            async with in_process(tmp_path) as (client, waker):
                await test(client, waker)
                client.close("was disconnected")

        trio.run(main)

    return run


@with_daemon
async def test_metadata_is_done_when_the_call_returns(client: LocalClient, waker: Waker) -> None:
    created = client.call(CREATE, CREATION, 60.0)
    assert created.done
    assert created.result().created
    found = client.call(LOOKUP, LookupRequest(b"/a"), 60.0)
    assert found.done
    assert found.result().record == created.result().record
    assert client.call(UNLINK, UnlinkRequest(b"/a", 0, 0, 2), 60.0).done
    assert waker.times == 0


@with_daemon
async def test_refusals_are_what_messages_bring(client: LocalClient, waker: Waker) -> None:
    cases: list[tuple[Any, Any, type[OSError]]] = [
        (LOOKUP, LookupRequest(b"/none"), FileNotFoundError),
        (STAT, StatRequest(b"/", 7), OSError),
        (CREATE, CREATION._replace(path=b"/"), FileExistsError),
    ]
    for operation, request, error in cases:
        call: Call[Any] = client.call(operation, request, 60.0)
        assert call.done
        with pytest.raises(error) as raised:
            call.result()
        assert raised.value.errno in operation.errnos


def test_a_daemon_that_has_ended_is_told_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with in_process(tmp_path) as (client, _):
            pass
        requests: list[tuple[Any, Any]] = [
            (CREATE, CREATION),
            (LOOKUP, LookupRequest(b"/")),
            (READ_CHUNK, ReadChunkRequest(7, 0, 0, MIB)),
        ]
        for operation, request in requests:
            call: Call[Any] = client.call(operation, request, 60.0)
            with pytest.raises(OSError, match="has ended") as raised:
                call.result()
            assert raised.value.errno == errno.ETIMEDOUT

    trio.run(main)


@with_daemon
async def test_numbers_out_of_range_are_einval(client: LocalClient, waker: Waker) -> None:
    for request in (CREATION._replace(uid=-1), CREATION._replace(now_ns=1 << 70)):
        with pytest.raises(OSError, match="Invalid argument: create") as raised:
            client.call(CREATE, request, 60.0).result()
        assert raised.value.errno == errno.EINVAL
    assert client.call(CREATE, CREATION, 60.0).result().created


@with_daemon
async def test_a_truncation_that_cannot_be_noted_says_why_and_changes_nothing(
    client: LocalClient, waker: Waker
) -> None:
    def full(store: MetadataStore, how: object) -> None:
        raise os_error(errno.ENOSPC, "metadata store: No space left on device")

    fid = metadentry.decode(client.call(CREATE, CREATION, 60.0).result().record).fid
    await done(client.call(TRUNCATE, TruncateRequest(b"/a", fid, 3 * MIB, 0, 2), 60.0))
    await done(client.call(WRITE_CHUNK, WriteChunkRequest(fid, 2, 0, b"x" * 100), 60.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetadataStore, "_write_one", full)
        patch.setattr(MetadataStore, "_write_batch", full)
        with pytest.raises(OSError, match="could not be committed") as raised:
            await done(client.call(TRUNCATE, TruncateRequest(b"/a", fid, 50, 0, 3), 60.0))
    assert raised.value.errno == errno.ENOSPC
    found = client.call(LOOKUP, LookupRequest(b"/a"), 60.0).result()
    assert metadentry.decode(found.record).size == 3 * MIB
    assert (await done(client.call(READ_CHUNK, ReadChunkRequest(fid, 2, 0, 200), 60.0))).data == b"x" * 100


@with_daemon
async def test_large_data_is_written_and_read_by_tasks_that_wake_the_caller(
    client: LocalClient, waker: Waker
) -> None:
    data = bytes(range(256)) * (MIB // 256)
    written = client.call(WRITE_CHUNK, WriteChunkRequest(7, 0, 0, memoryview(data)), 60.0)
    assert not written.done
    assert (await done(written)).length == MIB
    assert waker.times == 1
    read = client.call(READ_CHUNK, ReadChunkRequest(7, 0, 0, MIB), 60.0)
    assert bytes((await done(read)).data) == data
    small = client.call(READ_CHUNK, ReadChunkRequest(7, 0, 5, 100), 60.0)
    assert small.done
    assert bytes(small.result().data) == data[5:105]


def with_handler(
    folder: Path, handler: Any, test: Callable[[LocalClient], Awaitable[None]], operation: Any = SEAL
) -> None:
    """Run *test* with a client whose daemon executes *operation* by *handler* and knows no other."""

    async def main() -> None:
        store = MetadataStore(folder / "metadata")
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                dispatcher = Dispatcher(store, nursery)
                dispatcher.serve(operation, handler)
                sessions = Sessions(store)
                client = LocalClient(0, dispatcher, store, sessions, nursery, b"c" * 16, lambda: None)
                assert sessions.connected() == 1
                await test(client)
                client.close("is gone")
                assert sessions.connected() == 0
                nursery.cancel_scope.cancel()
        store.close()

    trio.run(main)


def assert_times_out(call: Call[Any], why: str) -> None:
    assert call.done
    with pytest.raises(TimeoutError, match=why):
        call.result()


SEALING = SealRequest(b"/a", 1)


def test_a_blocked_call_runs_again_when_the_guard_is_lifted(tmp_path: Path) -> None:
    guards: list[Guard] = []

    def handler(session: Session, request: SealRequest) -> Empty:
        if len(guards) < 2:
            guards.append(Guard("busy"))
            raise Blocked(guards[-1])
        return Empty()

    async def test(client: LocalClient) -> None:
        call = client.call(SEAL, SEALING, 60.0)
        for count in (1, 2):
            await trio.testing.wait_all_tasks_blocked()
            assert (call.done, len(guards)) == (False, count)
            guards[-1].lifted.set()
        assert await done(call) == Empty()

    with_handler(tmp_path, handler, test)


@pytest.mark.parametrize("later", [False, True], ids=["at-once", "later"])
def test_what_is_not_there_is_said_when_the_mirror_may_have_no_other_word(later: bool, tmp_path: Path) -> None:
    """Another process may have taken over: then there may be such a file."""

    def missing(session: Session, request: SealRequest) -> Empty:
        raise FileNotFoundError(errno.ENOENT, "/a")

    async def missing_later(session: Session, request: SealRequest) -> Empty:
        await trio.lowlevel.checkpoint()
        raise FileNotFoundError(errno.ENOENT, "/a")

    async def test(client: LocalClient) -> None:
        mirror = client._dispatcher.mirror = Mirror(0)
        call = client.call(SEAL, SEALING, 60.0)
        await trio.testing.wait_all_tasks_blocked()
        assert not call.done
        mirror.open()
        with pytest.raises(OSError, match="/a"):
            await done(call)

    with_handler(tmp_path, missing_later if later else missing, test)


def test_a_call_that_takes_too_long_fails_and_so_do_those_at_the_end(tmp_path: Path) -> None:
    async def slowly(session: Session, request: SealRequest) -> Empty:
        await trio.sleep_forever()

    async def test(client: LocalClient) -> None:
        late, later = client.call(SEAL, SEALING, 1.0), client.call(SEAL, SEALING, 60.0)
        client.expire(time.monotonic())
        assert [late.done, later.done] == [False, False]
        client.expire(time.monotonic() + 2.0)
        assert_times_out(late, "seal: daemon 0 in this process did not answer in time")
        client.close("is gone")
        assert_times_out(later, "is gone")

    with_handler(tmp_path, slowly, test)


@pytest.mark.parametrize("later", [False, True], ids=["at-once", "later"])
def test_mistakes_are_logged_and_eio(later: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def handler(session: Session, request: StatRequest) -> RecordReply:
        raise KeyError("mistake")

    async def slowly(session: Session, request: StatRequest) -> RecordReply:
        await trio.lowlevel.checkpoint()
        raise KeyError("mistake")

    async def test(client: LocalClient) -> None:
        with pytest.raises(OSError, match="stat: KeyError") as raised:
            await done(client.call(STAT, StatRequest(b"/a", 0), 60.0))
        assert raised.value.errno == errno.EIO

    with caplog.at_level(logging.ERROR):
        with_handler(tmp_path, slowly if later else handler, test, STAT)
    assert "Traceback" in caplog.text


def test_what_a_failed_call_has_put_is_not_committed(tmp_path: Path) -> None:
    store: list[MetadataStore] = []

    def handler(session: Session, request: StatRequest) -> RecordReply:
        store[0].put(b"key", b"value")
        raise OSError(errno.ESTALE, "facts")

    async def test(client: LocalClient) -> None:
        store.append(client._store)
        with pytest.raises(OSError, match="facts"):
            client.call(STAT, StatRequest(b"/a", 0), 60.0).result()
        store[0].commit()
        assert store[0].get(b"key") is None

    with_handler(tmp_path, handler, test, STAT)
