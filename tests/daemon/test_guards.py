"""What operations in progress keep others from seeing."""

import pytest
import trio

from gkfs.daemon.guards import Blocked, Guards


@pytest.mark.parametrize("exchange", [False, True])
def test_nobody_sees_what_is_being_copied_below_the_target_of_a_directory_rename(exchange: bool) -> None:
    async def main() -> None:
        guards = Guards()
        guards.lock_tree(b"i" * 16, b"/old", b"/new", exchange=exchange)
        for path in (b"/new/a", b"/new/a/b"):
            with pytest.raises(Blocked):
                guards.check_read(path)
        for directory in (b"/new", b"/new/a"):
            with pytest.raises(Blocked):
                guards.check_list(directory)
        guards.check_read(b"/new")
        guards.check_list(b"/other")
        if not exchange:  # it is all still there
            guards.check_read(b"/old/a")
            guards.check_list(b"/old")
        guards.unlock_tree(b"i" * 16)
        guards.check_read(b"/new/a")

    trio.run(main)


def test_a_directory_is_not_listed_while_a_name_in_it_is_being_exchanged() -> None:
    async def main() -> None:
        guards = Guards()
        guards.hold_path(b"/a/b", "is being renamed", exchange=True)
        guards.hold_path(b"/c/d", "is being renamed")
        with pytest.raises(Blocked):
            guards.check_list(b"/a")
        for directory in (b"/", b"/a/b", b"/c"):
            guards.check_list(directory)
        guards.lift_path(b"/a/b")
        guards.check_list(b"/a")

    trio.run(main)
