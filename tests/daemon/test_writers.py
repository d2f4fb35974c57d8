"""Write leases, on a simulated clock."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from gkfs.daemon import writers
from gkfs.daemon.guards import Blocked
from gkfs.daemon.writers import Writers
from gkfs.limits import WRITE_LEASE_S, WRITE_RIGHT_S, WRITE_SETTLE_S

A, B, C = b"client a", b"client b", b"client c"
FILE, OTHER = 7, 8


def run(check: Callable[[Writers], Awaitable[None]], *, restarted: bool = False) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await check(Writers(nursery, restarted=restarted))

    trio.run(main, clock=MockClock(autojump_threshold=0))


def blocked(found: Writers, client: bytes) -> Blocked:
    with pytest.raises(Blocked) as caught:
        found.declare(FILE, client, behind=False)
    return caught.value


async def waits_s(until: Blocked) -> float:
    start_s = trio.current_time()
    await until.guard.lifted.wait()
    return trio.current_time() - start_s


def test_who_is_alone_has_the_lease_and_keeps_it() -> None:
    async def check(found: Writers) -> None:
        assert found.declare(FILE, A, behind=False)
        for _ in range(100):
            await trio.sleep(WRITE_LEASE_S / 2)
            assert found.declare(FILE, A, behind=True)
        assert found.declare(OTHER, B, behind=False)
        found.check(FILE, A)
        found.check(OTHER, B)

    run(check)


def test_another_writer_waits_until_the_lease_runs_out_and_then_nobody_has_one() -> None:
    async def check(found: Writers) -> None:
        found.declare(FILE, A, behind=False)
        assert await waits_s(blocked(found, B)) == pytest.approx(WRITE_LEASE_S)
        assert not found.declare(FILE, B, behind=False)
        assert not found.declare(FILE, A, behind=False)
        found.check(FILE, B)
        await trio.sleep(WRITE_RIGHT_S / 2)
        assert not found.declare(FILE, B, behind=False)
        await trio.sleep(WRITE_RIGHT_S / 2 + 0.1)
        assert not found.declare(FILE, A, behind=False), "B may still write"
        await trio.sleep(WRITE_RIGHT_S + 0.1)
        assert found.declare(FILE, A, behind=False)

    run(check)


def test_the_holder_learns_of_it_keeps_the_lease_until_its_data_are_there_and_gives_it_back() -> None:
    async def check(found: Writers) -> None:
        found.declare(FILE, A, behind=False)
        until = blocked(found, B)
        for _ in range(5):
            await trio.sleep(WRITE_LEASE_S / 2)
            assert not found.declare(FILE, A, behind=True)
            assert not until.guard.lifted.is_set()
        assert not found.declare(FILE, A, behind=False)
        assert until.guard.lifted.is_set()
        assert not found.declare(FILE, B, behind=False)

    run(check)


def test_who_does_not_get_its_data_there_does_not_hold_up_others_for_ever() -> None:
    async def check(found: Writers) -> None:
        found.declare(FILE, A, behind=False)
        until = blocked(found, B)
        start_s = trio.current_time()
        while not until.guard.lifted.is_set():
            found.declare(FILE, A, behind=True)
            await trio.sleep(0.1)
        assert trio.current_time() - start_s == pytest.approx(WRITE_SETTLE_S, abs=0.2)

    run(check)


def test_who_has_published_gives_it_back_at_once_and_may_still_write() -> None:
    async def check(found: Writers) -> None:
        found.declare(FILE, A, behind=False)
        until = blocked(found, B)
        found.settled(FILE, B)
        assert not until.guard.lifted.is_set()
        found.settled(FILE, A)
        assert until.guard.lifted.is_set()
        assert not found.declare(FILE, B, behind=False)

    run(check)


def test_who_writes_to_the_record_waits_for_the_lease_of_another() -> None:
    async def check(found: Writers) -> None:
        found.declare(FILE, A, behind=False)
        with pytest.raises(Blocked):
            found.check(FILE, B)
        assert not found.declare(FILE, A, behind=True), "A learns of it"
        found.check(OTHER, B)

    run(check)


def test_three_writers_all_wait_for_the_first() -> None:
    async def check(found: Writers) -> None:
        found.declare(FILE, A, behind=False)
        one, other = blocked(found, B), blocked(found, C)
        assert one.guard is other.guard
        found.settled(FILE, A)
        assert [found.declare(FILE, client, behind=False) for client in (A, B, C)] == [False] * 3

    run(check)


def test_nobody_gets_one_where_writers_may_be_that_are_not_known() -> None:
    async def check(found: Writers) -> None:
        found.file_came(FILE)
        assert not found.declare(FILE, A, behind=False)
        assert found.declare(OTHER, A, behind=False)
        await trio.sleep(WRITE_RIGHT_S + 0.1)
        assert found.declare(FILE, A, behind=False)
        found.files_came()
        assert not found.declare(9, A, behind=False)
        assert found.declare(FILE, A, behind=True), "which was here"

    run(check)


def test_nobody_gets_one_after_a_restart() -> None:
    async def check(found: Writers) -> None:
        assert not found.declare(FILE, A, behind=False)
        assert not found.declare(FILE, A, behind=True)
        await trio.sleep(WRITE_RIGHT_S + 0.1)
        assert found.declare(FILE, A, behind=False)

    run(check, restarted=True)


def test_a_full_table_gives_none_until_its_writers_have_lost_their_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "LEASES_MAX", 3)

    async def check(found: Writers) -> None:
        assert [found.declare(fid, A, behind=False) for fid in range(5)] == [True] * 3 + [False] * 2
        assert not found.declare(0, A, behind=False), "B may write to it, for all that is known"
        await trio.sleep(WRITE_RIGHT_S + 0.1)
        assert [found.declare(fid, B, behind=False) for fid in range(5)] == [True] * 3 + [False] * 2

    run(check)
