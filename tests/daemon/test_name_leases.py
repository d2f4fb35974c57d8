"""Leases on the names of directories that one client fills alone, on a simulated clock."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from gkfs import paths
from gkfs.daemon.guards import Blocked
from gkfs.daemon.name_leases import NameLeases
from gkfs.daemon.store import MetadataStore
from gkfs.limits import NAMES_CALM_S, NAMES_LEASE_AFTER, NAMES_LEASE_MAX, NAMES_LEASE_S

A, B = b"client a", b"client b"
FID = 7


class Directory:
    """What appears in /d."""

    def __init__(self, leases: NameLeases, store: MetadataStore) -> None:
        self.leases = leases
        self.store = store
        self.names: list[bytes] = []

    def make(self, client: bytes, lease: int = 0, fid: int = FID) -> tuple[int, list[bytes]]:
        """One more entry, of *client*, as the handler of CREATE makes it."""
        name = b"%05d" % len(self.names)
        path = b"/d/" + name
        self.leases.enter(path, client)
        self.names.append(name)
        self.store.put(paths.key(path), b"record")
        return self.leases.created(path, fid, client, lease)

    def leased(self, client: bytes) -> int:
        """Entries until *client* has a lease; its number."""
        for _ in range(NAMES_LEASE_AFTER - 1):
            assert self.make(client) == (0, [])
        lease, names = self.make(client)
        assert lease
        assert names == self.names
        return lease


def run(tmp_path: Path, check: Callable[[Directory], Awaitable[None]], *, restarted: bool = False) -> None:
    async def main() -> None:
        store = MetadataStore(tmp_path / "metadata")
        async with trio.open_nursery() as nursery:
            await check(Directory(NameLeases(nursery, store, restarted=restarted), store))
        store.close()

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def wait_for(act: Callable[[], object]) -> float:
    """How long the guard holds *act* up."""
    start_s = trio.current_time()
    with pytest.raises(Blocked) as caught:
        act()
    await caught.value.guard.lifted.wait()
    return trio.current_time() - start_s


def test_who_makes_some_entries_alone_is_told_all_names(tmp_path: Path) -> None:
    async def check(directory: Directory) -> None:
        lease = directory.leased(A)
        assert directory.make(A, lease) == (lease, [])
        await trio.sleep(100 * NAMES_LEASE_S)
        assert directory.make(A, lease) == (lease, [])  # nobody has made any: what it knows is still right
        newer, names = directory.make(A)  # it has forgotten
        assert newer != lease
        assert names == directory.names

    run(tmp_path, check)


def test_an_entry_of_another_waits_for_the_lease_and_then_both_are_left_without(tmp_path: Path) -> None:
    async def check(directory: Directory) -> None:
        lease = directory.leased(A)
        await trio.sleep(NAMES_LEASE_S / 2)
        assert directory.make(A, lease)[0] == lease
        assert await wait_for(lambda: directory.make(B)) == pytest.approx(NAMES_LEASE_S)
        for _ in range(3 * NAMES_LEASE_AFTER):
            assert directory.make(B) == (0, [])
        for _ in range(3 * NAMES_LEASE_AFTER):
            assert directory.make(A, lease) == (0, [])
        await trio.sleep(NAMES_CALM_S)
        assert directory.make(A, lease)[1] == directory.names

    run(tmp_path, check)


def test_a_lease_that_somebody_waits_for_is_not_renewed(tmp_path: Path) -> None:
    async def check(directory: Directory) -> None:
        lease = directory.leased(A)
        with pytest.raises(Blocked) as caught:
            directory.make(B)
        for _ in range(8):
            await trio.sleep(NAMES_LEASE_S / 10)
            assert directory.make(A, lease) == (0, [])
        await caught.value.guard.lifted.wait()
        directory.make(B)

    run(tmp_path, check)


def test_what_comes_by_rename_or_link_is_told_anew(tmp_path: Path) -> None:
    async def check(directory: Directory) -> None:
        lease = directory.leased(A)
        directory.leases.enter(b"/d/came", A)
        directory.leases.came(b"/d/came")
        directory.store.put(paths.key(b"/d/came"), b"record")
        newer, names = directory.make(A, lease)
        assert newer not in (0, lease)
        assert sorted(names) == sorted([*directory.names, b"came"])

    run(tmp_path, check)


def test_another_directory_under_the_same_path_begins_anew(tmp_path: Path) -> None:
    async def check(directory: Directory) -> None:
        lease = directory.leased(A)
        assert directory.make(A, lease, fid=FID + 1) == (0, [])

    run(tmp_path, check)


def test_a_directory_that_another_renames_waits(tmp_path: Path) -> None:
    async def check(directory: Directory) -> None:
        for top in (b"/d", b"/"):
            lease = directory.leased(A)
            directory.leases.end_within((b"/other",), B)
            assert directory.make(A, lease) == (lease, [])
            assert await wait_for(lambda top=top: directory.leases.end_within((top,), B)) > 0  # type: ignore[misc]
            directory.leases.end_within((top,), B)
            await trio.sleep(NAMES_LEASE_S)
        lease = directory.leased(A)
        directory.leases.end_within((b"/d",), A)  # it knows
        assert directory.make(A, lease) == (0, [])

    run(tmp_path, check)


def test_all_leases_below_are_awaited_at_once_and_no_new_ones_given(tmp_path: Path) -> None:
    async def check(directory: Directory) -> None:
        for number in range(20):
            for _ in range(NAMES_LEASE_AFTER):
                made = directory.leases.created(b"/d/%d/x" % number, FID, A, 0)
            assert made[0]
        top = (b"/d",)
        assert await wait_for(lambda: directory.leases.end_within(top, B)) == pytest.approx(NAMES_LEASE_S)
        for _ in range(2 * NAMES_LEASE_AFTER):
            assert directory.make(A) == (0, []), "who makes more directories gets none"
        directory.leases.end_within(top, B)
        await trio.sleep(NAMES_LEASE_S)
        directory.leased(A)

    run(tmp_path, check)


def test_there_is_no_lease_on_a_large_directory(tmp_path: Path) -> None:
    async def check(directory: Directory) -> None:
        for number in range(NAMES_LEASE_MAX):
            directory.store.put(paths.key(b"/d/there-%d" % number), b"record")
        for _ in range(2 * NAMES_LEASE_AFTER):
            assert directory.make(A) == (0, [])

    run(tmp_path, check)


def test_after_a_restart_entries_wait_as_if_all_were_leased(tmp_path: Path) -> None:
    async def check(directory: Directory) -> None:
        assert await wait_for(lambda: directory.make(A)) == pytest.approx(NAMES_LEASE_S)
        directory.leased(A)

    run(tmp_path, check, restarted=True)
