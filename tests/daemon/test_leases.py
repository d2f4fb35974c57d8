"""Leases of directories, on a simulated clock."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from gkfs.daemon.guards import Blocked
from gkfs.daemon.leases import Leases
from gkfs.limits import FILE_CALM_S, LEASE_S

A, B = b"client a", b"client b"


def run(check: Callable[[Leases], Awaitable[None]], *, restarted: bool = False) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await check(Leases(nursery, restarted=restarted))

    trio.run(main, clock=MockClock(autojump_threshold=0))


def blocked(leases: Leases, path: bytes, client: bytes) -> Blocked:
    with pytest.raises(Blocked) as caught:
        leases.check_change(path, client)
    return caught.value


def test_a_change_waits_until_the_lease_of_another_client_ends() -> None:
    async def check(leases: Leases) -> None:
        assert leases.grant(b"/d", A)
        await trio.sleep(LEASE_S / 2)
        start_s = trio.current_time()
        await blocked(leases, b"/d", B).guard.lifted.wait()
        assert trio.current_time() - start_s == pytest.approx(LEASE_S / 2)
        leases.check_change(b"/d", B)

    run(check)


def test_ones_own_lease_and_those_of_other_paths_do_not_matter() -> None:
    async def check(leases: Leases) -> None:
        leases.grant(b"/d", A)
        leases.grant(b"/other", B)
        leases.check_change(b"/d", A)

    run(check)


def test_a_change_of_ones_own_does_not_end_the_lease_that_others_wait_for() -> None:
    async def check(leases: Leases) -> None:
        leases.grant(b"/d", A)
        leases.check_change(b"/d", A)
        blocked(leases, b"/d", B)

    run(check)


def test_no_lease_is_given_while_somebody_waits() -> None:
    async def check(leases: Leases) -> None:
        leases.grant(b"/d", A)
        waiting = blocked(leases, b"/d", B)
        assert not leases.grant(b"/d", A)
        assert leases.grant(b"/e", A)
        await waiting.guard.lifted.wait()
        assert not leases.grant(b"/d", A)  # who waited comes first
        leases.check_change(b"/d", B)
        assert leases.grant(b"/d", A)

    run(check)


def test_a_renewed_lease_ends_later() -> None:
    async def check(leases: Leases) -> None:
        leases.grant(b"/d", A)
        await trio.sleep(LEASE_S * 0.9)
        leases.grant(b"/d", A)
        await trio.sleep(LEASE_S * 0.9)
        blocked(leases, b"/d", B)
        await trio.sleep(LEASE_S * 0.2)
        leases.check_change(b"/d", B)

    run(check)


def test_a_restarted_daemon_takes_every_path_for_leased() -> None:
    async def check(leases: Leases) -> None:
        blocked(leases, b"/d", A)
        await trio.sleep(LEASE_S * 1.1)
        leases.check_change(b"/d", A)

    run(check, restarted=True)


def test_leases_that_ran_out_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gkfs.daemon.leases.LEASES_MAX", 2)

    async def check(leases: Leases) -> None:
        assert leases.grant(b"/1", A)
        assert leases.grant(b"/2", A)
        assert not leases.grant(b"/3", A)
        await trio.sleep(LEASE_S * 1.1)
        assert leases.grant(b"/3", A)

    run(check)


def test_a_file_that_is_read_and_changed_is_not_leased_for_a_while() -> None:
    async def check(leases: Leases) -> None:
        assert leases.grant(b"/f", A)
        with pytest.raises(Blocked) as caught:
            leases.check_file(b"/f", B)
        await caught.value.guard.lifted.wait()
        leases.check_file(b"/f", B)
        assert not leases.grant(b"/f", A)
        await trio.sleep(FILE_CALM_S / 2)
        leases.check_file(b"/f", B)  # at once
        assert not leases.grant(b"/f", A)
        await trio.sleep(FILE_CALM_S / 2)
        assert leases.grant(b"/f", A)

    run(check)


def test_a_file_that_only_its_reader_changes_stays_leased() -> None:
    async def check(leases: Leases) -> None:
        assert leases.grant(b"/f", A)
        leases.check_file(b"/f", A)
        assert leases.grant(b"/f", A)

    run(check)
