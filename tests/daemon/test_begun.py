"""What a handler has changed before it leaves the rest to a task is committed, whoever asked and however late."""

import errno
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
import trio
import trio.testing

from gkfs import wire
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.guards import Blocked, Guard
from gkfs.daemon.local import LocalClient
from gkfs.daemon.session import Session, Sessions
from gkfs.daemon.store import MetadataStore
from gkfs.errors import os_error
from gkfs.messages import Empty, StatRequest
from gkfs.operations import SEAL, STAT
from gkfs.peer_messages import SealRequest

KEY, VALUE = b"key", b"value"
REQUEST = SealRequest(b"/a", 1)


class Daemon:
    """A dispatcher with one handler that begins something and leaves it to a task, and one that fails."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.store = MetadataStore(folder / "metadata")
        self.dispatcher = Dispatcher(self.store, nursery)
        self.dispatcher.serve(SEAL, self.begin)
        self.dispatcher.serve(STAT, self.fail)
        self.sessions = Sessions(self.store)
        self.guards = {operation: Guard("busy") for operation in (SEAL, STAT)}
        self.finish = trio.Event()
        self.done = trio.Event()

    def check(self, operation: Any) -> None:
        guard = self.guards[operation]
        if not guard.lifted.is_set():
            raise Blocked(guard)

    async def lift(self, operation: Any) -> None:
        self.guards[operation].lifted.set()
        await trio.testing.wait_all_tasks_blocked()

    def begin(self, session: Session, request: Any) -> Coroutine[Any, Any, Empty]:
        self.check(SEAL)
        self.store.put(KEY, VALUE)
        return self.rest()

    async def rest(self) -> Empty:
        await self.finish.wait()
        self.done.set()
        return Empty()

    def fail(self, session: Session, request: Any) -> Coroutine[Any, Any, NoReturn]:
        self.check(STAT)
        return self.failure()

    async def failure(self) -> NoReturn:
        raise os_error(errno.ENOENT, "/a")


class Peer:
    """Stands for a connection."""

    def __init__(self) -> None:
        self.session = Session(bytes(16), "peer")

    def send(self, pieces: list[Any]) -> None:
        pass

    def task_begins(self, size_bytes: int) -> None:
        pass

    task_ends = task_begins


def by_message(daemon: Daemon) -> Callable[[], None]:
    peer = cast(Any, Peer())
    peer.session.connection = peer

    def execute(operation: Any, request: Any, seq: int) -> None:
        daemon.dispatcher.execute(peer, [wire.Message(seq, operation.code, wire.REQUEST, 0, list(request), b"")])

    execute(SEAL, REQUEST, 1)
    return lambda: execute(STAT, StatRequest(b"/a", 0), 2)


def by_call_here(daemon: Daemon) -> Callable[[], None]:
    client = LocalClient(
        0, daemon.dispatcher, daemon.store, daemon.sessions, daemon.nursery, b"c" * 16, lambda: None
    )
    client.call(SEAL, REQUEST, 60.0)
    return lambda: cast(None, client.call(STAT, StatRequest(b"/a", 0), 60.0))


def by_itself(daemon: Daemon) -> Callable[[], None]:
    daemon.nursery.start_soon(daemon.dispatcher.call, Session(b"itself", "peer"), SEAL, REQUEST)

    async def fail() -> None:
        with pytest.raises(FileNotFoundError):
            await daemon.dispatcher.call(Session(b"itself", "peer"), STAT, StatRequest(b"/a", 0))

    return lambda: daemon.nursery.start_soon(fail)


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("way", [by_message, by_call_here, by_itself])
def test_the_failure_of_another_request_takes_nothing_back(
    way: Callable[[Daemon], Callable[[], None]], blocked: bool, tmp_path: Path
) -> None:
    async def main() -> None:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                daemon = Daemon(tmp_path, nursery)
                if not blocked:
                    await daemon.lift(SEAL)
                way(daemon)()
                await trio.testing.wait_all_tasks_blocked()
                assert (daemon.store.get(KEY) is None) == blocked
                await daemon.lift(SEAL)
                await daemon.lift(STAT)
                daemon.finish.set()
                await daemon.done.wait()
                await daemon.dispatcher.idle()
                assert daemon.store.get(KEY) == VALUE
        daemon.store.close()

    trio.run(main)
