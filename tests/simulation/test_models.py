"""The models refuse what must not be, and take what may be: else the simulation would show nothing."""

import errno
from dataclasses import replace

from gkfs.messages import RENAME_EXCHANGE
from tests.simulation import data_model, names_model
from tests.simulation.data_model import record
from tests.simulation.history import NEVER, ROOT, Append, History, NameOp, Place, Read, Write


def op(kind: str, begun: int, ended: float, name: bytes, *, found: int = 0, error: int = 0) -> NameOp:
    return NameOp(kind, "client", begun, (ROOT,), (name,), ended=ended, found=found, error=error)


def rename(begun: int, ended: float, old: bytes, new: bytes, flags: int = 0) -> NameOp:
    return NameOp("rename", "client", begun, (ROOT, ROOT), (old, new), flags=flags, ended=ended)


def ok(*ops: NameOp) -> bool:
    return names_model.check(list(ops)).ok


def test_name_that_was_made_is_found() -> None:
    made = op("create", 1, 2, b"a", found=5)
    assert ok(made, op("lookup", 3, 4, b"a", found=5))
    assert not ok(made, op("lookup", 3, 4, b"a", error=errno.ENOENT))
    assert ok(made, op("lookup", 1, 4, b"a", error=errno.ENOENT))  # before it was made


def test_exclusive_creation_succeeds_once() -> None:
    assert not ok(op("create", 1, 4, b"a", found=5), op("create", 2, 3, b"a", found=6))
    assert ok(op("create", 1, 4, b"a", found=5), op("create", 2, 3, b"a", error=errno.EEXIST))
    assert not ok(op("create", 1, 2, b"a", error=errno.EEXIST))  # by whom?


def test_call_without_answer_has_happened_once_or_not_at_all() -> None:
    lost = op("create", 1, NEVER, b"a")
    assert ok(lost, op("lookup", 2, 3, b"a", error=errno.ENOENT))
    assert ok(lost, op("lookup", 2, 3, b"a", found=5), op("lookup", 4, 5, b"a", found=5))
    assert not ok(lost, op("lookup", 2, 3, b"a", found=5), op("lookup", 4, 5, b"a", found=6))
    assert not ok(lost, op("lookup", 2, 3, b"a", found=5), op("lookup", 4, 5, b"a", error=errno.ENOENT))


def test_renamed_file_has_one_name() -> None:
    made = op("create", 1, 2, b"a", found=5)
    moved = rename(3, 6, b"a", b"b")
    assert ok(made, moved, op("lookup", 7, 8, b"a", error=errno.ENOENT), op("lookup", 9, 10, b"b", found=5))
    assert not ok(made, moved, op("lookup", 7, 8, b"a", found=5))
    new, old = op("lookup", 3, 4, b"b", found=5), op("lookup", 5, 6, b"a", found=5)
    assert ok(made, moved, new, old)  # for as long as the rename has not returned
    assert not ok(made, moved, new, op("lookup", 6, 7, b"a", found=5))


def test_a_node_knows_a_directory_until_its_own_rmdir_has_returned() -> None:
    first, again = op("mkdir", 1, 2, b"a", found=5), op("mkdir", 5, 6, b"a", found=6)
    removed, seen = op("rmdir", 3, 10, b"a"), op("lookup", 7, 8, b"a", found=6)
    assert ok(first, removed, again, seen, op("lookup", 9, 9, b"a", found=5))
    assert not ok(first, removed, again, seen, replace(op("lookup", 9, 9, b"a", found=5), client="other"))
    assert not ok(first, removed, again, seen, op("lookup", 9, 9.5, b"a", found=5)), "a daemon does not"
    assert not ok(first, removed, again, seen, op("lookup", 11, 11, b"a", found=5))


def test_a_node_knows_directories_until_its_own_rename_has_returned() -> None:
    made = [op("mkdir", 1, 2, b"a", found=5), op("mkdir", 3, 4, b"b", found=6)]
    elsewhere = replace(op("lookup", 6, 7, b"b", found=5), client="other")
    replaced = op("lookup", 8, 8, b"b", found=6)
    for flags in (0, RENAME_EXCHANGE):
        moved = rename(5, 10, b"a", b"b", flags)
        assert ok(*made, moved, elsewhere, replaced, op("lookup", 9, 9, b"a", found=5))
        assert not ok(*made, moved, elsewhere, replace(replaced, client="other"))
        assert not ok(*made, moved, elsewhere, replace(replaced, begun=11, ended=11))


def test_exchange_shows_both_or_none() -> None:
    made = [op("create", 1, 2, b"a", found=5), op("create", 3, 4, b"b", found=6)]
    exchange = rename(5, 10, b"a", b"b", RENAME_EXCHANGE)
    assert ok(*made, exchange, op("lookup", 6, 7, b"a", found=6), op("lookup", 8, 9, b"b", found=5))
    assert not ok(*made, exchange, op("lookup", 6, 7, b"a", found=6), op("lookup", 8, 9, b"b", found=6))


def test_rename_to_another_name_of_the_file_is_not_always_without_effect() -> None:
    made = op("create", 1, 2, b"a", found=5)
    link = NameOp("link", "client", 3, (ROOT,), (b"b",), fid=5, ended=4)
    both = [op("unlink", 5, 8, b"a"), rename(6, 10, b"b", b"a")]
    assert ok(made, link, *both, op("create", 11, 12, b"b", found=6))  # unlinked first
    assert ok(made, link, *both, op("lookup", 11, 12, b"b", found=5))  # renamed first, in vain
    assert not ok(made, link, *both, op("lookup", 11, 12, b"b", found=5), op("lookup", 13, 14, b"a", found=5))


def test_directory_with_something_in_it_stays() -> None:
    directory = op("mkdir", 1, 2, b"d", found=5)
    inside = NameOp("create", "client", 3, (Place(5, (b"d",)),), (b"a",), ended=4, found=6)
    assert ok(directory, inside, op("rmdir", 5, 6, b"d", error=errno.ENOTEMPTY))
    assert not ok(directory, inside, op("rmdir", 5, 6, b"d"))


def faults(history: History) -> list[str]:
    return list(data_model.check_reads(history))


def test_data_shown_before_an_open_is_read() -> None:
    first = Write("one", 1, frozenset({0}), b"first", 1, 2, shown=3)
    second = Write("two", 1, frozenset({0}), b"second", 4, 5, shown=6)
    for stamp, opened, expected in [
        (b"first", 7, 1),
        (b"", 7, 1),
        (b"second", 7, 0),
        (b"first", 5, 0),
        (b"x", 5, 1),
    ]:
        read = Read("three", 1, 0, opened, 8, 9, stamp)
        assert len(faults(History(writes=[first, second], reads=[read]))) == expected, (stamp, opened)


def test_cut_data_stays_away() -> None:
    written = Write("one", 1, frozenset({0}), b"first", 1, 2, shown=3)
    cut = Write("two", 1, frozenset({0}), b"", 4, 5, shown=5)
    for stamp, expected in [(b"first", 1), (b"", 0)]:
        assert len(faults(History(writes=[written, cut], reads=[Read("x", 1, 0, 6, 7, 8, stamp)]))) == expected


def test_appended_records_are_there_once_and_whole() -> None:
    one, two = record(1, 40), record(2, 50)
    done = [Append("a", 1, one, done=True), Append("b", 1, two, done=True)]

    def wrong(data: bytes, appends: list[Append] = done) -> int:
        return len(list(data_model.check_appends(1, data, appends)))

    assert wrong(one + two) == wrong(two + one) == 0
    assert wrong(one)
    assert wrong(one + two + one)
    assert wrong(one[:20] + two)
    assert wrong(one + bytes(9) + two)
    lost = [done[0], Append("b", 1, two)]
    assert wrong(one, lost) == wrong(one + bytes(len(two)), lost) == wrong(one + two, lost) == 0
