"""USAGE of one daemon: every record counts once, for the directory it is in, however many answers it takes."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from gkfs import metadentry, paths
from gkfs.daemon import usage
from gkfs.daemon.guards import Guards
from gkfs.daemon.session import Session
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.usage import Usage
from gkfs.metadentry import Metadentry
from gkfs.tally import Tally, total
from gkfs.usage_messages import UsageReply, UsageRequest

SESSION = Session(b"c" * 16, "control")
NOW_NS = 10**18
FILE, DIRECTORY, SYMLINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MetadataStore]:
    made = MetadataStore(tmp_path / "metadata")
    yield made
    made.close()


def put(
    store: MetadataStore, path: bytes, mode: int = FILE, size: int = 0, age_s: int = 0, flags: int = 0
) -> None:
    entry = Metadentry.new(mode=mode, uid=0, gid=0, fid=len(path) + 2, now_ns=NOW_NS - age_s * 10**9)
    store.put(paths.key(path), metadentry.encode(entry._replace(size=size, flags=flags)))


def ask(store: MetadataStore, path: bytes, depth: int) -> tuple[dict[bytes, Tally], list[UsageReply]]:
    """All answers, added up."""

    async def main() -> list[UsageReply]:
        handler = Usage(store, Guards())
        replies = [await handler.usage(SESSION, UsageRequest(path, depth, b"", NOW_NS))]
        while replies[-1].after:
            replies.append(await handler.usage(SESSION, UsageRequest(path, depth, replies[-1].after, NOW_NS)))
        return replies

    store.commit()
    replies = trio.run(main)
    found: dict[bytes, Tally] = {}
    for reply in replies:
        for directory, packed in zip(reply.directories, reply.tallies, strict=True):
            found.setdefault(directory, Tally()).add(Tally.unpack(packed))
    return found, replies


def sample(store: MetadataStore) -> None:
    put(store, b"/", DIRECTORY)
    put(store, b"/a", DIRECTORY)
    put(store, b"/a/f", FILE, 1000, age_s=100)
    put(store, b"/a/b", DIRECTORY)
    put(store, b"/a/b/g", FILE, 0)
    put(store, b"/a/b/c/h", FILE, 1 << 30, age_s=-5)
    put(store, b"/a0", SYMLINK, 3)  # sorts behind all that is below /a
    put(store, b"/p", stat.S_IFIFO | 0o600)


def test_counts_are_for_the_directory_of_the_depth_that_was_asked_for(store: MetadataStore) -> None:
    sample(store)
    for depth, expected in (
        (0, {b"/": (3, 3)}),
        (1, {b"/": (0, 1), b"/a": (3, 2)}),
        (2, {b"/": (0, 1), b"/a": (1, 1), b"/a/b": (2, 1)}),
        (9, {b"/": (0, 1), b"/a": (1, 1), b"/a/b": (1, 1), b"/a/b/c": (1, 0)}),
    ):
        found, _ = ask(store, b"/", depth)
        assert {path: (tally.files, tally.directories) for path, tally in found.items()} == expected
        whole = total(found.values())
        assert (whole.symlinks, whole.others, whole.size_bytes) == (1, 1, 1000 + (1 << 30))
        assert whole.sizes == {0: 1, 10: 1, 31: 1}
        assert whole.ages == {7: 1, 0: 2}


def test_a_subtree_does_not_count_what_only_begins_with_its_name(store: MetadataStore) -> None:
    sample(store)
    put(store, b"/aa", FILE, 7)
    put(store, b"/a!/x", FILE, 7)
    found, _ = ask(store, b"/a", 1)
    assert {path: tally.files for path, tally in found.items()} == {b"/a": 1, b"/a/b": 2}
    found, _ = ask(store, b"/a/f", 0)
    assert found[b"/a/f"].size_bytes == 1000
    assert ask(store, b"/nothing", 0)[0] == {}


def test_names_of_files_with_several_names_are_told_apart_from_counts(store: MetadataStore) -> None:
    sample(store)
    put(store, b"/a/b/linked", FILE, flags=metadentry.FLAG_LINK)
    found, (reply,) = ask(store, b"/", 2)
    assert found[b"/a/b"].files == 2
    assert reply.linked == [len(b"/a/b/linked") + 2]
    assert reply.directories[reply.linked_in[0]] == b"/a/b"


@pytest.mark.parametrize("cause", ["time", "bytes"])
def test_an_answer_in_many_parts_adds_up_to_the_whole(
    store: MetadataStore, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    for number in range(5000):
        put(store, b"/d%03d/%d" % (number % 100, number), FILE, number)
    whole, (one,) = ask(store, b"/", 1)
    assert len(one.directories) == 100
    if cause == "time":
        monkeypatch.setattr(usage, "USAGE_ANSWER_S", 0.0)
    else:
        monkeypatch.setattr(usage, "USAGE_ANSWER_BYTES", 5000)
    parts, replies = ask(store, b"/", 1)
    assert len(replies) > 4
    assert parts == whole
    assert total(whole.values()).files == 5000


def test_others_run_while_a_large_subtree_is_counted(
    store: MetadataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "USAGE_ANSWER_S", 60.0)
    for number in range(20_000):
        put(store, b"/d/%d" % number)
    store.commit()
    turns = 0

    async def main() -> None:
        async def other() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await Usage(store, Guards()).usage(SESSION, UsageRequest(b"/", 0, b"", NOW_NS))
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert turns >= 10
