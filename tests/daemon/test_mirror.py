"""What a primary ships, what it holds, and for how long; the mirror is a list of calls."""

import errno
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from gkfs.channel import Call
from gkfs.copy_messages import NOBODY
from gkfs.daemon import mirror as mirror_module
from gkfs.daemon.guards import Blocked
from gkfs.daemon.mirror import Mirror
from gkfs.errors import os_error
from gkfs.keyfile import Access, Key
from gkfs.limits import COPY_SILENCE_S
from gkfs.messages import Buffer, Empty
from gkfs.operations import Operation


class FakePeer:
    """Keeps calls, which `confirm` completes."""

    def __init__(self, *rest: object) -> None:
        self.calls: list[Call[Any]] = []
        self.asked: list[str] = []

    async def run(self) -> None:
        await trio.sleep_forever()

    def submit(self, operation: Operation[Any, Any], request: Any) -> Call[Any]:
        call: Call[Any] = Call(operation, len(self.asked), [], 0.0)
        self.calls.append(call)
        self.asked.append(operation.name)
        return call

    async def confirm(self, error: OSError | None = None) -> None:
        """All there is."""
        await trio.testing.wait_all_tasks_blocked()
        calls, self.calls = self.calls, []
        for call in calls:
            call.finish(None if error else Empty(), error)
        await trio.testing.wait_all_tasks_blocked()


class Target:
    def __init__(self) -> None:
        self.got: list[Buffer] = []
        self.broken = False

    def send(self, pieces: list[Buffer]) -> None:
        self.got += pieces


def with_mirror(
    monkeypatch: pytest.MonkeyPatch, test: Callable[[Mirror, FakePeer, trio.Nursery], Awaitable[None]]
) -> None:
    """Run *test* with a mirror to which process 1 is attached."""
    peer = FakePeer()
    monkeypatch.setattr(mirror_module, "Peer", lambda *rest: peer)

    async def nowhere() -> Any:
        raise AssertionError

    async def begin(mirror: Mirror) -> None:
        with suppress(OSError):
            await mirror.begin(1, 0)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            mirror = Mirror(7)
            mirror.open()
            mirror.attach(1, nowhere, Access("f" * 32, Key(b"k" * 32), False), nursery)
            nursery.start_soon(begin, mirror)
            await trio.testing.wait_all_tasks_blocked()
            await test(mirror, peer, nursery)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))


def test_nothing_is_shipped_before_the_copy_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there before would take it, and who is told so would believe that the new one has it."""

    async def test(mirror: Mirror, peer: FakePeer, nursery: trio.Nursery) -> None:
        mirror.wrote(1, 0, 0, b"early")
        mirror.cut(1, 0)
        mirror.commit({b"k": b"v"})
        await trio.sleep(1)
        assert peer.asked[0] == "copy_begin"
        assert set(peer.asked[1:]) == {"copy_ping"}
        await peer.confirm()
        del peer.asked[:]
        mirror.commit({b"k": b"v"})
        mirror.wrote(1, 0, 0, b"now")
        assert peer.asked == ["copy_records", "copy_chunk"]

    with_mirror(monkeypatch, test)


def test_there_are_two_copies_when_the_view_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(mirror: Mirror, peer: FakePeer, nursery: trio.Nursery) -> None:
        await peer.confirm()
        mirror.count()
        assert mirror.copies == 1
        mirror.is_decided = True
        assert mirror.copies == 2
        mirror.detach()
        assert (mirror.copies, mirror.is_decided, mirror.process) == (1, False, NOBODY)

    with_mirror(monkeypatch, test)


def test_pings_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(mirror: Mirror, peer: FakePeer, nursery: trio.Nursery) -> None:
        await trio.sleep(100)
        assert len(peer.asked) == 5
        await peer.confirm()
        await trio.sleep(1)
        assert 6 <= len(peer.asked) <= 9
        assert mirror.silent_s > COPY_SILENCE_S
        await peer.confirm()
        assert mirror.silent_s < COPY_SILENCE_S

    with_mirror(monkeypatch, test)


def test_replies_for_broken_connections_are_not_held_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(mirror: Mirror, peer: FakePeer, nursery: trio.Nursery) -> None:
        mirror.count()
        alive, gone = Target(), Target()
        gone.broken = True
        mirror.send(alive, [b"first"])
        for _ in range(100_000):
            mirror.send(gone, [b"late"])
        assert len(mirror._held) < 3000
        mirror.send(alive, [b"last"])
        await peer.confirm()
        assert (alive.got, mirror._held) == ([b"first", b"last"], mirror._held.__class__())

    with_mirror(monkeypatch, test)


@pytest.mark.parametrize("is_given_up", [False, True])
def test_who_writes_waits_when_too_much_is_on_the_way(is_given_up: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(mirror: Mirror, peer: FakePeer, nursery: trio.Nursery) -> None:
        await peer.confirm()
        piece = bytes(1 << 20)
        for _ in range(129):
            mirror.check_backlog()
            mirror.wrote(1, 0, 0, piece)
        with pytest.raises(Blocked) as caught:
            mirror.check_backlog()
        guard = caught.value.guard
        assert not guard.lifted.is_set()
        if is_given_up:
            mirror.detach()
        else:
            await peer.confirm()
        assert guard.lifted.is_set()
        mirror.check_backlog()

    with_mirror(monkeypatch, test)


def test_what_the_mirror_does_not_take_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(mirror: Mirror, peer: FakePeer, nursery: trio.Nursery) -> None:
        await peer.confirm(os_error(errno.EEXIST, "needed"))
        mirror.wrote(1, 0, 0, b"never")
        assert "copy_chunk" not in peer.asked
        assert mirror.failure is not None
        with pytest.raises(OSError, match="needed"):
            await mirror.flushed()

    with_mirror(monkeypatch, test)
