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
PATH = b"/d/file"


def run(check: Callable[[Writers], Awaitable[None]], *, restarted: bool = False) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await check(Writers(nursery, restarted=restarted))

    trio.run(main, clock=MockClock(autojump_threshold=0))


def blocked(found: Writers, client: bytes) -> Blocked:
    with pytest.raises(Blocked) as caught:
        found.declare(PATH, FILE, client, behind=False, wanted=True)
    return caught.value


async def waits_s(until: Blocked) -> float:
    start_s = trio.current_time()
    await until.guard.lifted.wait()
    return trio.current_time() - start_s


def test_who_is_alone_has_the_lease_and_keeps_it() -> None:
    async def check(found: Writers) -> None:
        assert found.declare(PATH, FILE, A, behind=False, wanted=True)
        for _ in range(100):
            await trio.sleep(WRITE_LEASE_S / 2)
            assert found.declare(PATH, FILE, A, behind=True, wanted=True)
        assert found.declare(PATH, OTHER, B, behind=False, wanted=True)
        found.check(FILE, A)
        found.check(OTHER, B)

    run(check)


def test_another_writer_waits_until_the_lease_runs_out_and_then_nobody_has_one() -> None:
    async def check(found: Writers) -> None:
        found.declare(PATH, FILE, A, behind=False, wanted=True)
        assert await waits_s(blocked(found, B)) == pytest.approx(WRITE_LEASE_S)
        assert not found.declare(PATH, FILE, B, behind=False, wanted=True)
        assert not found.declare(PATH, FILE, A, behind=False, wanted=True)
        found.check(FILE, B)
        await trio.sleep(WRITE_RIGHT_S / 2)
        assert not found.declare(PATH, FILE, B, behind=False, wanted=True)
        await trio.sleep(WRITE_RIGHT_S / 2 + 0.1)
        assert not found.declare(PATH, FILE, A, behind=False, wanted=True), "B may still write"
        await trio.sleep(WRITE_RIGHT_S + 0.1)
        assert found.declare(PATH, FILE, A, behind=False, wanted=True)

    run(check)


def test_the_holder_learns_of_it_keeps_the_lease_until_its_data_are_there_and_gives_it_back() -> None:
    async def check(found: Writers) -> None:
        found.declare(PATH, FILE, A, behind=False, wanted=True)
        until = blocked(found, B)
        for _ in range(5):
            await trio.sleep(WRITE_LEASE_S / 2)
            assert not found.declare(PATH, FILE, A, behind=True, wanted=True)
            assert not until.guard.lifted.is_set()
        assert not found.declare(PATH, FILE, A, behind=False, wanted=True)
        assert until.guard.lifted.is_set()
        assert not found.declare(PATH, FILE, B, behind=False, wanted=True)

    run(check)


def test_who_does_not_get_its_data_there_does_not_hold_up_others_for_ever() -> None:
    async def check(found: Writers) -> None:
        found.declare(PATH, FILE, A, behind=False, wanted=True)
        until = blocked(found, B)
        start_s = trio.current_time()
        while not until.guard.lifted.is_set():
            found.declare(PATH, FILE, A, behind=True, wanted=True)
            await trio.sleep(0.1)
        assert trio.current_time() - start_s == pytest.approx(WRITE_SETTLE_S, abs=0.2)

    run(check)


def test_who_has_published_gives_it_back_at_once_and_may_still_write() -> None:
    async def check(found: Writers) -> None:
        found.declare(PATH, FILE, A, behind=False, wanted=True)
        until = blocked(found, B)
        found.settled(FILE, B, leaves=False)
        assert not until.guard.lifted.is_set()
        found.settled(FILE, A, leaves=False)
        assert until.guard.lifted.is_set()
        assert not found.declare(PATH, FILE, B, behind=False, wanted=True)

    run(check)


def test_who_writes_to_the_record_waits_for_the_lease_of_another() -> None:
    async def check(found: Writers) -> None:
        found.declare(PATH, FILE, A, behind=False, wanted=True)
        with pytest.raises(Blocked):
            found.check(FILE, B)
        assert not found.declare(PATH, FILE, A, behind=True, wanted=True), "A learns of it"
        found.check(OTHER, B)

    run(check)


def test_three_writers_all_wait_for_the_first() -> None:
    async def check(found: Writers) -> None:
        found.declare(PATH, FILE, A, behind=False, wanted=True)
        one, other = blocked(found, B), blocked(found, C)
        assert one.guard is other.guard
        found.settled(FILE, A, leaves=False)
        assert [found.declare(PATH, FILE, client, behind=False, wanted=True) for client in (A, B, C)] == [
            False
        ] * 3

    run(check)


def test_nobody_gets_one_where_writers_may_be_that_are_not_known() -> None:
    async def check(found: Writers) -> None:
        found.file_came(FILE, PATH)
        assert not found.declare(PATH, FILE, A, behind=False, wanted=True)
        assert found.declare(PATH, OTHER, A, behind=False, wanted=True)
        await trio.sleep(WRITE_RIGHT_S + 0.1)
        assert found.declare(PATH, FILE, A, behind=False, wanted=True)
        found.files_came()
        assert not found.declare(PATH, 9, A, behind=False, wanted=True)
        assert found.declare(PATH, FILE, A, behind=True, wanted=True), "which was here"

    run(check)


def test_nobody_gets_one_after_a_restart() -> None:
    async def check(found: Writers) -> None:
        assert not found.declare(PATH, FILE, A, behind=False, wanted=True)
        assert not found.declare(PATH, FILE, A, behind=True, wanted=True)
        await trio.sleep(WRITE_RIGHT_S + 0.1)
        assert found.declare(PATH, FILE, A, behind=False, wanted=True)

    run(check, restarted=True)


def test_a_full_table_gives_none_until_its_writers_have_lost_their_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "LEASES_MAX", 3)

    async def check(found: Writers) -> None:
        assert [found.declare(PATH, fid, A, behind=False, wanted=True) for fid in range(5)] == [True] * 3 + [
            False
        ] * 2
        assert not found.declare(PATH, 0, A, behind=False, wanted=True), "B may write to it, for all that is known"
        await trio.sleep(WRITE_RIGHT_S + 0.1)
        assert [found.declare(PATH, fid, B, behind=False, wanted=True) for fid in range(5)] == [True] * 3 + [
            False
        ] * 2

    run(check)


def test_who_does_not_want_one_holds_nobody_up_but_is_a_writer() -> None:
    async def check(found: Writers) -> None:
        assert not found.declare(PATH, FILE, A, behind=False, wanted=False)
        assert not found.declare(PATH, FILE, B, behind=False, wanted=True)

    run(check)


def test_who_leaves_is_no_writer_any_more() -> None:
    async def check(found: Writers) -> None:
        found.declare(PATH, FILE, A, behind=False, wanted=True)
        found.settled(FILE, A, leaves=True)
        assert found.declare(PATH, FILE, B, behind=False, wanted=True)
        until = blocked(found, A)
        found.settled(FILE, B, leaves=True)
        assert until.guard.lifted.is_set()
        assert found.declare(PATH, FILE, A, behind=False, wanted=True)

    run(check)


@pytest.mark.parametrize("below", [False, True])
def test_a_record_leaves_when_nobody_has_the_lease_any_more(below: bool) -> None:
    async def check(found: Writers) -> None:
        def leave() -> None:
            if below:
                found.leave_within((b"/d",))
            else:
                found.leave(FILE)

        leave()
        found.declare(PATH, FILE, A, behind=False, wanted=True)
        with pytest.raises(Blocked) as caught:
            leave()
        assert not found.declare(PATH, FILE, A, behind=True, wanted=True), "A learns of it"
        assert not caught.value.guard.lifted.is_set()
        assert not found.declare(PATH, FILE, A, behind=False, wanted=True)
        assert caught.value.guard.lifted.is_set()
        leave()

    run(check)


def test_what_is_not_below_the_directory_keeps_its_lease() -> None:
    async def check(found: Writers) -> None:
        found.declare(b"/d2/file", FILE, A, behind=False, wanted=True)
        found.declare(b"/dd", OTHER, A, behind=False, wanted=True)
        found.leave_within((b"/d",))
        assert found.declare(b"/d2/file", FILE, A, behind=True, wanted=True)

    run(check)


def test_whom_there_was_no_room_to_note_is_the_only_writer_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "LEASES_MAX", 2)

    async def check(found: Writers) -> None:
        for fid in (100, 101):
            assert found.declare(PATH, fid, A, behind=False, wanted=True)
        with pytest.raises(Blocked):
            found.leave_within((b"/d",))  # for a while nobody gets a lease in any case
        await trio.sleep(WRITE_LEASE_S)
        assert not found.declare(PATH, FILE, A, behind=False, wanted=True)
        await trio.sleep(WRITE_RIGHT_S - WRITE_LEASE_S + 0.1)
        assert not found.declare(PATH, FILE, B, behind=False, wanted=True), "A may write still"
        await trio.sleep(WRITE_RIGHT_S)
        assert found.declare(PATH, FILE, B, behind=False, wanted=True)

    run(check)


def test_all_leases_below_a_directory_are_recalled_at_once_and_no_new_ones_given() -> None:
    async def check(found: Writers) -> None:
        many = range(100, 150)
        for fid in many:
            assert found.declare(PATH, fid, A, behind=False, wanted=True)
        with pytest.raises(Blocked):
            found.leave_within((b"/d",))
        assert not found.declare(PATH, FILE, B, behind=False, wanted=True), "who makes more files waits for each"
        for fid in many:
            assert not found.declare(PATH, fid, A, behind=True, wanted=True), "A learns of it"
            found.settled(fid, A, leaves=False)
        found.leave_within((b"/d",))

    run(check)


def test_whoever_has_the_lease_and_is_silent_holds_up_a_record_for_as_long_as_it_lasts() -> None:
    async def check(found: Writers) -> None:
        found.declare(PATH, FILE, A, behind=False, wanted=True)
        with pytest.raises(Blocked) as caught:
            found.leave(FILE)
        assert await waits_s(caught.value) == pytest.approx(WRITE_LEASE_S)
        found.leave(FILE)

    run(check)


def test_a_file_that_was_renamed_here_keeps_its_lease_and_is_below_its_new_directory() -> None:
    async def check(found: Writers) -> None:
        found.declare(b"/old/file", FILE, A, behind=False, wanted=True)
        found.is_at(FILE, PATH)
        found.leave_within((b"/old",))
        with pytest.raises(Blocked):
            found.leave_within((b"/d",))

    run(check)
