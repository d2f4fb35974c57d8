"""The table of handlers, and what becomes of their outcomes."""

import errno
import logging
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from gkfs import wire
from gkfs.daemon import rows
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.guards import Blocked, Guard
from gkfs.daemon.session import Session
from gkfs.daemon.store import MetadataStore
from gkfs.hostfile import Sync
from gkfs.messages import Empty, ExtendRequest, RecordReply, StatRequest
from gkfs.operations import EXTEND, SEAL, STAT
from gkfs.peer_messages import SealRequest

EXTENSION = ExtendRequest(b"/a", 0, 1, 1, False, False)


class Recorder:
    """Stands for a connection: keeps what is sent."""

    def __init__(self, role: str = "client") -> None:
        self.session = Session(bytes(16), role)
        self.tasks_bytes = 0
        self.sent: list[wire.Message] = []
        self.arrived = trio.Event()

    def send(self, pieces: list[Any]) -> None:
        decoder = wire.Decoder()
        data = b"".join(pieces)
        decoder.buffer()[: len(data)] = data
        self.sent += decoder.received(len(data))
        self.arrived.set()

    def task_begins(self, size_bytes: int) -> None:
        self.tasks_bytes += size_bytes

    def task_ends(self, size_bytes: int) -> None:
        self.tasks_bytes -= size_bytes


def message(operation: Any, request: Any, seq: int = 1) -> wire.Message:
    return wire.Message(seq, operation.code, wire.REQUEST, 0, list(request), b"")


def outcomes(folder: Path, operation: Any, handler: Any, request: Any) -> list[wire.Message]:
    """What is sent when *handler* executes *request*, at once and later."""

    async def main() -> list[wire.Message]:
        store = MetadataStore(folder / "metadata")
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                dispatcher = Dispatcher(store, nursery)
                dispatcher.serve(operation, handler)
                recorder = Recorder(operation.role or "client")
                recorder.session.connection = cast(Any, recorder)
                dispatcher.execute(cast(Any, recorder), [message(operation, request)])
                await dispatcher.idle()
                await recorder.arrived.wait()
        store.close()
        return [sent for sent in recorder.sent if sent]

    return trio.run(main)


def test_operation_served_twice_or_not_at_all_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        store = MetadataStore(tmp_path / "m")
        async with trio.open_nursery() as nursery:
            dispatcher = Dispatcher(store, nursery)
            dispatcher.serve(STAT, lambda session, request: RecordReply(b""))
            with pytest.raises(ValueError, match="stat is served twice"):
                dispatcher.serve(STAT, lambda session, request: RecordReply(b""))
            with pytest.raises(ValueError, match=r"without handler: .*create"):
                dispatcher.check_complete()
        store.close()

    trio.run(main)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESTALE, errno.ENOSPC, errno.EIO])
def test_declared_and_common_errnos_go_out(number: int, tmp_path: Path) -> None:
    def handler(session: Session, request: StatRequest) -> RecordReply:
        raise OSError(number, "facts")

    (reply,) = outcomes(tmp_path, STAT, handler, StatRequest(b"/a", 0))
    assert (reply.errno, reply.fields) == (number, ["facts"])


@pytest.mark.parametrize("error", [OSError(errno.EXDEV, "strange"), KeyError("mistake"), RuntimeError("mistake")])
def test_anything_else_is_logged_and_eio(
    error: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(session: Session, request: StatRequest) -> RecordReply:
        raise error

    with caplog.at_level(logging.ERROR):
        (reply,) = outcomes(tmp_path, STAT, handler, StatRequest(b"/a", 0))
    assert reply.errno == errno.EIO
    assert "Traceback" in caplog.text

    async def slowly(session: Session, request: StatRequest) -> RecordReply:
        await trio.lowlevel.checkpoint()
        raise error

    (reply,) = outcomes(tmp_path, STAT, slowly, StatRequest(b"/a", 0))
    assert reply.errno == errno.EIO


def test_blocked_handler_runs_again_when_the_guard_is_lifted(tmp_path: Path) -> None:
    runs: list[int] = []

    async def lift(guard: Guard) -> None:
        guard.lifted.set()

    def handler(session: Session, request: SealRequest) -> Empty:
        runs.append(1)
        if len(runs) < 3:
            guard = Guard("busy")
            trio.lowlevel.spawn_system_task(lift, guard)
            raise Blocked(guard)
        return Empty()

    (reply,) = outcomes(tmp_path, SEAL, handler, SealRequest(b"/a", 1))
    assert reply.errno == 0
    assert len(runs) == 3


def test_handler_blocked_for_too_long_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "LOCK_WAIT_S", 0.01)

    def handler(session: Session, request: ExtendRequest) -> RecordReply:
        raise Blocked(Guard("something is in progress"))

    (reply,) = outcomes(tmp_path, EXTEND, handler, EXTENSION)
    assert reply.errno == errno.ETIMEDOUT  # EBUSY is not among what a write may see
    assert "in progress" in reply.fields[0]


def test_failed_commit_fails_the_whole_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        store = MetadataStore(tmp_path / "m")

        def put(session: Session, request: ExtendRequest) -> RecordReply:
            store.put(request.path, b"x")
            return RecordReply(b"")

        def full() -> None:
            store.rollback()
            raise OSError(errno.ENOSPC, "full")

        async with trio.open_nursery() as nursery:
            dispatcher = Dispatcher(store, nursery)
            dispatcher.serve(EXTEND, put)
            recorder = Recorder()
            with monkeypatch.context() as patch:
                patch.setattr(store, "commit", full)
                dispatcher.execute(cast(Any, recorder), [message(EXTEND, EXTENSION, seq) for seq in (1, 2)])
            assert [(sent.seq, sent.errno) for sent in recorder.sent] == [(1, errno.ENOSPC), (2, errno.ENOSPC)]
            assert store.get(b"/a") is None
        store.close()

    trio.run(main)


@pytest.mark.parametrize("fails", [False, True])
def test_with_synced_commits_a_batch_is_answered_when_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    async def main() -> None:
        store = MetadataStore(tmp_path / "m", sync=Sync.COMMIT)
        on_disk = trio.Event()

        async def sync() -> None:
            await on_disk.wait()
            if fails:
                raise OSError(errno.EIO, "disk")

        def put(session: Session, request: ExtendRequest) -> RecordReply:
            store.put(request.path, b"x")
            return RecordReply(b"")

        monkeypatch.setattr(store, "sync", sync)
        async with trio.open_nursery() as nursery:
            dispatcher = Dispatcher(store, nursery)
            dispatcher.serve(EXTEND, put)
            dispatcher.serve(STAT, lambda session, request: RecordReply(b""))
            recorder = Recorder()
            dispatcher.execute(cast(Any, recorder), [message(EXTEND, EXTENSION, seq) for seq in (1, 2)])
            dispatcher.execute(cast(Any, recorder), [message(STAT, StatRequest(b"/a", 0), 3)])
            await trio.testing.wait_all_tasks_blocked()
            assert [(sent.seq, sent.errno) for sent in recorder.sent] == [(3, 0)]
            on_disk.set()
            await dispatcher.idle()
            expected = errno.EIO if fails else 0
            assert [(sent.seq, sent.errno) for sent in recorder.sent] == [(3, 0), (1, expected), (2, expected)]
        store.close()

    trio.run(main)
