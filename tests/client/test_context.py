"""Looking for an open file that others rename: those who had it are asked until one has it."""

from collections.abc import Callable
from typing import Any

import trio

from gkfs.client.context import Context, MountOptions
from gkfs.distributor import Distributor
from gkfs.limits import MOVES_FOLLOWED
from gkfs.messages import WhereReply

FID = 7
Answer = Callable[[bytes, int], list[bytes]]  # to the question for a path, and how many were asked before


def where(answer: Answer) -> tuple[bytes, list[bytes]]:
    """What is found from /start on, and who was asked."""
    asked: list[bytes] = []

    class Scripted(Context):
        def call_owner(self, path: bytes, operation: Any, request: Any) -> Any:
            assert request == (path, FID)

            async def reply() -> WhereReply:
                asked.append(path)
                return WhereReply(answer(path, len(asked) - 1))

            return reply()

    context = Scripted(None, Distributor(1), MountOptions())  # type: ignore[arg-type]
    return trio.run(context._where, b"/start", FID), asked


def test_the_likeliest_place_is_asked_first_and_leads_on() -> None:
    moves = {b"/start": [b"/a", b"/b"], b"/a": [b"/c"], b"/c": [b"/c"]}
    assert where(lambda path, _: moves[path]) == (b"/c", [b"/start", b"/a", b"/c"])


def test_a_circle_of_hints_does_not_hide_where_it_stayed() -> None:
    moves = {
        b"/start": [b"/d/a", b"/e/a"],
        b"/d/a": [b"/d/c", b"/start"],
        b"/d/c": [b"/d/a", b"/e/a"],
        b"/e/a": [b"/e/a"],
    }
    assert where(lambda path, _: moves[path]) == (b"/e/a", [b"/start", b"/d/a", b"/d/c", b"/e/a"])


def test_what_goes_to_and_fro_is_met() -> None:
    def answer(path: bytes, before: int) -> list[bytes]:
        return [path] if before == 5 else [b"/there" if path == b"/start" else b"/start"]

    assert where(answer) == (b"/there", [b"/start", b"/there"] * 3)


def test_what_is_gone_is_not_looked_for_for_ever() -> None:
    assert where(lambda path, _: []) == (b"", [b"/start"])
    found, asked = where(lambda path, before: [b"/%d" % before, b"/x%d" % before])
    assert (found, len(asked)) == (b"", MOVES_FOLLOWED)
