"""Placement by hashing."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkfs.distributor import Distributor
from gkfs.hashing import jump_hash
from gkfs.metadentry import head_on


@pytest.mark.parametrize("daemons", [2, 4, 16])
def test_paths_spread_evenly(daemons: int) -> None:
    distributor = Distributor(daemons)
    held = Counter(distributor.path_owner(b"/run/rank%05d.dat" % number) for number in range(10_000))
    assert max(held.values()) <= 1.15 * 10_000 / daemons


@pytest.mark.parametrize("daemons", [2, 4, 16])
def test_chunks_of_one_file_spread_evenly(daemons: int) -> None:
    distributor = Distributor(daemons)
    held = Counter(distributor.chunk_owner(0x1_0000_0001, chunk) for chunk in range(10_000))
    assert max(held.values()) <= 1.15 * 10_000 / daemons


def test_placement_by_hash_never_changes() -> None:
    # A change here would lose every file of a restarted file system.
    distributor = Distributor(5)
    assert [distributor.path_owner(b"/%d" % number) for number in range(12)] == PATH_OWNERS
    assert [distributor.chunk_owner(99, chunk) for chunk in range(12)] == CHUNK_OWNERS


PATH_OWNERS = [2, 4, 0, 2, 3, 2, 2, 1, 1, 1, 3, 1]
CHUNK_OWNERS = [3, 3, 0, 4, 0, 2, 0, 3, 2, 2, 2, 0]


def test_placement_of_the_head_moves_the_first_chunk_and_no_other() -> None:
    distributor = Distributor(5)
    placed = [distributor.chunk_owner(99, chunk, head_on(4)) for chunk in range(12)]
    assert placed == [4, *(distributor.chunk_owner(99, chunk) for chunk in range(1, 12))]
    assert 4 in distributor.chunk_owners(99, 0, 1, head_on(4))
    assert distributor.chunk_owners(99, 0, 10**6, head_on(4)) == set(range(5))


def test_local_placement_keeps_all_chunks_on_one_daemon() -> None:
    distributor = Distributor(5)
    assert {distributor.chunk_owner(99, chunk, placement=4) for chunk in range(100)} == {3}
    assert distributor.chunk_owners(99, 0, 10**6, placement=4) == {3}


@given(st.integers(1, 40), st.integers(0, 50), st.integers(0, 300))
def test_chunk_owners_holds_every_owner_of_the_range(daemons: int, first: int, count: int) -> None:
    distributor = Distributor(daemons)
    owners = {distributor.chunk_owner(7, chunk) for chunk in range(first, first + count)}
    assert owners <= distributor.chunk_owners(7, first, first + count)


@given(st.integers(0, (1 << 64) - 1), st.integers(1, 100))
def test_a_new_daemon_takes_keys_only_to_itself(key: int, daemons: int) -> None:
    assert jump_hash(key, daemons + 1) in (jump_hash(key, daemons), daemons)


def test_no_daemons_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Distributor(0)
