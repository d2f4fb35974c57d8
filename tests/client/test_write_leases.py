"""When writes need not be waited for: what a mount asks its daemons, and when."""

import errno
import stat
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import trio

from gkfs import metadentry
from gkfs.client.context import Context, MountOptions
from gkfs.client.inodes import Inode
from gkfs.client.write_leases import WriteLeases
from gkfs.distributor import Distributor
from gkfs.limits import WRITE_LEASE_RENEW_S, WRITE_LEASE_S, WRITE_RIGHT_S
from gkfs.messages import WriteLeaseReply, WriteLeaseRequest
from gkfs.metadentry import Metadentry
from gkfs.operations import WRITE_LEASE

FILE = 7


class Node(Context):
    """A mount whose daemon gives these answers about leases, and notes what it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: bool | OSError) -> None:
        super().__init__(None, Distributor(1), MountOptions())  # type: ignore[arg-type]
        entry = Metadentry.new(mode=stat.S_IFREG | 0o644, uid=0, gid=0, fid=FILE, now_ns=1)
        self.inode = self.inodes.seen(self.inodes.root, b"file", metadentry.encode(entry))
        self.pool = self.pump = self  # type: ignore[assignment]
        self.now_s = 1000.0
        self.events: list[str] = []
        self.leases = WriteLeases(self, self._settle, self._tell)
        self._answers = deque(answers)
        self._beside: list[Coroutine[Any, Any, None]] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)

    async def _settle(self, inode: Inode) -> None:
        self.events.append("settled")

    async def _tell(self, inode: Inode) -> None:
        self.events.append("told")

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """As the pump's."""
        self._beside.append(work)

    def call_owner(self, path: bytes, operation: Any, request: Any) -> Any:
        async def reply() -> WriteLeaseReply:
            assert operation is WRITE_LEASE
            assert request == WriteLeaseRequest(path, FILE, request.behind, True)
            self.events.append("renew" if request.behind else f"declare {path.decode()}")
            answer = self._answers.popleft()
            if isinstance(answer, OSError):
                raise answer
            return WriteLeaseReply(answer)

        return reply()

    async def write(self) -> bool:
        """Whether a write now may be on its way when it returns; then what was begun beside it."""
        await self.leases.prepare(self.inode, wanted=True)
        held = self.leases.held(self.inode)
        for work in self._beside:
            await work
        self._beside.clear()
        return held

    def take_events(self) -> list[str]:
        events, self.events = self.events, []
        return events


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    trio.run(main)


def test_who_is_alone_asks_once_and_renews_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch, True, True, True)

    async def work() -> None:
        for _ in range(10):
            assert await node.write()
        assert node.take_events() == ["declare /file"]
        for _ in range(2):
            node.now_s += WRITE_LEASE_RENEW_S
            assert await node.write()
            assert node.take_events() == ["renew"]

    run(work)


def test_who_is_not_asks_again_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch, False, False, True)

    async def work() -> None:
        for _ in range(10):
            assert not await node.write()
        assert node.take_events() == ["declare /file"]
        node.now_s += WRITE_LEASE_S
        assert not await node.write()
        assert node.take_events() == ["declare /file"]
        node.now_s += WRITE_LEASE_S
        assert not await node.write()
        assert not await node.write(), "asked at the second"
        assert await node.write()

    run(work)


def test_a_lease_that_is_refused_ends_at_once_and_what_is_on_its_way_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Node(monkeypatch, True, False, False)

    async def work() -> None:
        await node.write()
        node.now_s += WRITE_LEASE_RENEW_S
        node.take_events()
        assert await node.write(), "asked beside"
        assert node.take_events() == ["renew", "settled", "told", "declare /file"]
        assert not await node.write()

    run(work)


def test_without_an_answer_it_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch, True, OSError(errno.ETIMEDOUT, "away"), True)

    async def work() -> None:
        await node.write()
        node.now_s += WRITE_LEASE_S / 2 - 0.01
        assert await node.write()
        node.now_s += 0.02
        assert not await node.write(), "what is gathered now leaves when it is over"

    run(work)


def test_the_right_itself_is_declared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch, False, False)

    async def work() -> None:
        await node.write()
        node.now_s += WRITE_RIGHT_S - WRITE_LEASE_S
        node.take_events()
        await node.write()
        assert node.take_events() == ["declare /file"]

    run(work)


def test_where_the_file_has_moved_it_is_asked_for_there(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch, True, False)

    async def work() -> None:
        await node.write()
        node.take_events()
        node.inodes.rename(node.inode, (node.inodes.root.fid, b"file"), node.inodes.root, b"new")
        assert not await node.write()
        assert node.take_events() == ["settled", "declare /new"]

    run(work)


def test_it_is_given_back_with_nothing_on_its_way_and_had_again_by_who_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Node(monkeypatch, True, True)

    async def tell() -> None:
        node.events.append("told")
        assert not node.leases.held(node.inode)

    async def work() -> None:
        await node.write()
        node.take_events()
        assert node.leases.granted(node.inode)
        await node.leases.give_back(node.inode, tell, leaves=False)
        assert node.take_events() == ["settled", "told"]
        assert not node.leases.granted(node.inode)
        assert not await node.write()
        assert node.take_events() == [], "who writes and syncs in turn does not ask"
        assert not await node.write()
        assert node.take_events() == ["declare /file"]
        assert await node.write()

    run(work)


def test_who_leaves_asks_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch, True, True)

    async def tell() -> None:
        pass

    async def work() -> None:
        await node.write()
        await node.leases.give_back(node.inode, tell, leaves=True)
        node.take_events()
        assert await node.write()
        assert node.take_events() == ["declare /file"]

    run(work)


def test_what_a_lease_that_ran_out_let_be_sent_is_waited_for_before_the_next_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Node(monkeypatch, True, True)

    async def work() -> None:
        assert await node.write()
        assert node.take_events() == ["declare /file"]
        node.now_s += WRITE_LEASE_S
        for _ in range(2):
            assert not await node.write()
        assert node.take_events() == ["settled", "declare /file"]

    run(work)
