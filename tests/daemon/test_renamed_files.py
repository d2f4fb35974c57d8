"""Where renamed files went, for those who have them open."""

from collections.abc import Callable

import trio

from gkfs.daemon.moves import Moves


def in_trio(test: Callable[[Moves], None]) -> None:
    async def main() -> None:
        test(Moves())

    trio.run(main)


def test_file_that_had_left_a_directory_is_not_looked_for_below_its_new_name() -> None:
    def test(moves: Moves) -> None:
        moves.note_file(5, b"/d/b")  # from /e/a
        moves.note_directory(b"/e", b"/f")
        assert moves.where(b"/e/a", 5) == b"/d/b"
        assert moves.where(b"/e/a", 6) == b"/f/a"

    in_trio(test)


def test_nobody_is_sent_to_where_he_has_just_looked() -> None:
    def test(moves: Moves) -> None:
        moves.note_file(5, b"/c")
        assert moves.where(b"/c", 5) == b""  # it has been given another name, and lost this one

    in_trio(test)


def test_file_that_came_back_is_where_it_came_to() -> None:
    def test(moves: Moves) -> None:
        moves.file_came(5, b"/x")
        assert moves.where(b"/a", 5) == b""  # never spoken of here
        moves.note_file(5, b"/d/b")
        moves.file_came(5, b"/x")
        assert moves.where(b"/a", 5) == b"/x"

    in_trio(test)
