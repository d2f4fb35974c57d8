"""What a daemon remembers of renames: enough to be right, and no more than its bound."""

import tracemalloc
from collections.abc import Callable

import pytest
import trio
import trio.testing

from gkfs.daemon.moves import Moves
from gkfs.limits import MOVED_DIRECTORIES_MAX, MOVED_MEMORY_S, MOVES_FOLLOWED


def on_a_clock(test: Callable[[], object]) -> None:
    """Run *test* in trio, whose time passes by sleeping only."""

    async def main() -> None:
        await test()  # type: ignore[misc]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_what_was_below_a_renamed_directory_is_known_for_a_while() -> None:
    async def test() -> None:
        moves = Moves(restarted=False)
        moves.note_directory(b"/a/b", b"/x")
        assert [moves.was_moved(path) for path in (b"/a/b/c", b"/a/b/c/d", b"/a/b", b"/a/bc", b"/a", b"/x/c")] == [
            True,
            True,
            False,
            False,
            False,
            False,
        ]
        assert moves.where(b"/a/b/c/d", 7) == [b"/x/c/d"]
        assert moves.where(b"/a/b", 7) == [b"/x"]
        assert moves.where(b"/a/bc", 7) == []
        await trio.sleep(MOVED_MEMORY_S + 1)
        assert not moves.was_moved(b"/a/b/c")
        assert moves.where(b"/a/b/c", 7) == []

    on_a_clock(test)


def test_the_latest_rename_counts_whichever_directory_it_was_of() -> None:
    async def test() -> None:
        moves = Moves(restarted=False)
        moves.note_directory(b"/a/b", b"/old")
        await trio.sleep(1)
        moves.note_directory(b"/a", b"/new")
        assert moves.where(b"/a/b/c", 7) == [b"/new/b/c", b"/old/c"]
        await trio.sleep(1)
        moves.note_directory(b"/a/b", b"/newest")
        assert moves.where(b"/a/b/c", 7) == [b"/newest/c", b"/new/b/c", b"/old/c"]
        await trio.sleep(MOVED_MEMORY_S - 0.5)  # only the last is young enough, though its path was noted first
        assert moves.where(b"/a/b/c", 7) == [b"/newest/c"]
        assert not moves.was_moved(b"/a/x")

    on_a_clock(test)


def test_no_rename_is_missed_when_there_were_more_than_are_remembered() -> None:
    async def test() -> None:
        moves = Moves(restarted=False)
        for number in range(MOVED_DIRECTORIES_MAX):
            moves.note_directory(b"/d%d" % number, b"/x")
        assert not moves.was_moved(b"/elsewhere/f")
        await trio.sleep(10)
        moves.note_directory(b"/last", b"/x")
        assert moves.was_moved(b"/d0/f")  # forgotten, so all may be meant
        assert moves.was_moved(b"/elsewhere/f")
        await trio.sleep(MOVED_MEMORY_S - 9)  # what was forgotten would be by now
        assert not moves.was_moved(b"/elsewhere/f")
        assert moves.was_moved(b"/last/f")

    on_a_clock(test)


@pytest.mark.parametrize("rounds", [4])
def test_memory_of_directories_is_bounded(rounds: int) -> None:
    async def test() -> None:
        moves = Moves(restarted=False)
        tracemalloc.start()
        sizes = []
        for begin in range(rounds):
            for number in range(MOVED_DIRECTORIES_MAX):
                moves.note_directory(b"/d%d-%d" % (begin, number), b"/x")
            sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert max(sizes) < 1.5 * sizes[0]

    on_a_clock(test)


def in_trio(test: Callable[[Moves], None]) -> None:
    async def main() -> None:
        test(Moves(restarted=False))

    trio.run(main)


def test_file_that_had_left_a_directory_is_not_looked_for_below_its_new_name() -> None:
    def test(moves: Moves) -> None:
        moves.note_file(5, b"/d/b")  # from /e/a
        moves.note_directory(b"/e", b"/f")
        assert moves.where(b"/e/a", 5) == [b"/d/b"]
        assert moves.where(b"/e/a", 6) == [b"/f/a"]

    in_trio(test)


def test_nobody_is_sent_to_where_he_has_just_looked() -> None:
    def test(moves: Moves) -> None:
        moves.note_file(5, b"/c")
        assert moves.where(b"/c", 5) == []  # it has been given another name, and lost this one

    in_trio(test)


def test_file_that_came_back_is_where_it_came_to() -> None:
    def test(moves: Moves) -> None:
        moves.file_came(5, b"/x")
        assert moves.where(b"/a", 5) == []  # never spoken of here
        moves.note_file(5, b"/d/b")
        moves.file_came(5, b"/x")
        assert moves.where(b"/a", 5) == [b"/x"]

    in_trio(test)


def test_what_moved_with_its_directories_is_told_where_it_is_now() -> None:
    def test(moves: Moves) -> None:
        moves.note_file(5, b"/e/c")
        moves.note_directory(b"/e", b"/d/e")
        moves.note_directory(b"/d", b"/e")
        for path in (b"/e/b", b"/e/c", b"/d/e/c"):
            assert moves.where(path, 5) == [place for place in (b"/e/e/c", b"/d/e/c", b"/e/c") if place != path]
        assert moves.where(b"/e/e/c", 5) == [b"/d/e/c", b"/e/c"]  # it may have lost its name at one of these
        assert moves.where(b"/d/x", 6) == [b"/e/x"]

    in_trio(test)


def test_what_moved_with_one_directory_and_then_with_one_above_is_told_both_ways() -> None:
    def test(moves: Moves) -> None:
        moves.note_directory(b"/a/b", b"/a/c")
        moves.note_directory(b"/a", b"/d")
        assert moves.where(b"/a/b/x", 5) == [b"/d/b/x", b"/d/c/x", b"/a/c/x"]

    in_trio(test)


def test_exchanged_directories_change_places_once() -> None:
    def test(moves: Moves) -> None:
        moves.note_file(5, b"/a/new")
        moves.note_exchange(b"/a", b"/b")
        assert moves.where(b"/a/old", 5) == [b"/b/new", b"/a/new"]
        assert moves.where(b"/a/x", 6) == [b"/b/x"]
        assert moves.where(b"/b/x", 7) == [b"/a/x"]
        moves.note_directory(b"/b", b"/c")
        assert moves.where(b"/a/x", 6) == [b"/c/x", b"/b/x"]

    in_trio(test)


def test_after_a_restart_any_directory_may_have_been_renamed_for_a_while() -> None:
    async def test() -> None:
        moves = Moves(restarted=True)
        assert moves.was_moved(b"/a/b")
        await trio.sleep(MOVED_MEMORY_S - 1)
        moves.note_directory(b"/c", b"/d")
        assert moves.was_moved(b"/a/b")
        await trio.sleep(2)
        assert not moves.was_moved(b"/a/b")
        assert moves.was_moved(b"/c/b")

    on_a_clock(test)


def test_an_earlier_rename_of_the_same_path_counts_as_well() -> None:
    def test(moves: Moves) -> None:
        moves.note_exchange(b"/d", b"/e/e")
        moves.note_directory(b"/d", b"/e/d")  # what had come there
        assert moves.where(b"/d/c", 5) == [b"/e/d/c", b"/e/e/c"]
        assert moves.where(b"/e/e/c", 5) == [b"/e/d/c", b"/d/c"]

    in_trio(test)


def test_to_and_fro_leads_to_both_places_however_often() -> None:
    def test(moves: Moves) -> None:
        for _ in range(1000):
            moves.note_directory(b"/a", b"/b")
            moves.note_directory(b"/b", b"/a")
        assert moves.where(b"/a/x", 5) == [b"/b/x"]
        moves.note_directory(b"/a", b"/c")
        assert moves.where(b"/a/x", 5) == [b"/c/x", b"/b/x"]
        moves.note_file(5, b"/a/y")
        moves.note_directory(b"/a", b"/d")
        assert moves.where(b"/a/x", 5) == [b"/d/y", b"/a/y"]

    in_trio(test)


def test_as_many_places_are_told_as_anybody_follows() -> None:
    def test(moves: Moves) -> None:
        for number in range(2 * MOVES_FOLLOWED):
            moves.note_directory(b"/a", b"/%d" % number)
        latest = range(2 * MOVES_FOLLOWED - 1, MOVES_FOLLOWED - 1, -1)
        assert moves.where(b"/a/x", 5) == [b"/%d/x" % number for number in latest]

    in_trio(test)
