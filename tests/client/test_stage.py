"""Which node moves which part of a large file, and what counts as a difference."""

import os
import stat
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gkfs.client.bulk import Bulk
from gkfs.client.scan import Attributes
from gkfs.client.stage import SPAN_CHUNKS, Plan, Stage, is_of
from gkfs.distributor import Distributor
from gkfs.hostfile import DaemonAddress, Hostfile
from gkfs.limits import CHUNK_SIZE_BYTES
from gkfs.metadentry import head_on

FID = 0x1_0000_0007
FILE = Attributes(stat.S_IFREG | 0o4755, 1, 2, 0, 10, 3, 4)


def stage(hosts: list[str]) -> Stage:
    """A mover of a file system with a daemon on each of *hosts*; a host may be named twice."""
    addresses = {index: DaemonAddress(index, host, "tcp://h:1", "-") for index, host in enumerate(hosts)}
    known = SimpleNamespace(hosts=Hostfile("0" * 32, len(hosts), addresses), distributor=Distributor(len(hosts)))
    return Stage(cast(Bulk, known), Plan(), lambda _: None)


@pytest.mark.parametrize("hosts", [["a"], ["a", "a"], ["a", "b"], ["a", "b", "b", "c"]], ids="-".join)
@pytest.mark.parametrize("chunks", [1, 63, 64, 65, 1000])
def test_spans_give_every_chunk_to_the_node_that_has_it_and_to_no_other(hosts: list[str], chunks: int) -> None:
    one = stage(hosts)
    placement = head_on(len(hosts) - 1)
    moved: list[tuple[int, str]] = []
    for node, first, end in one.spans(FID, placement, chunks * CHUNK_SIZE_BYTES - 5):
        assert end - first <= SPAN_CHUNKS * len(set(hosts))
        moved += [(chunk, node) for chunk in range(first, end) if one.is_of(node, FID, placement, chunk)]
    assert sorted(moved) == [
        (chunk, hosts[one.bulk.distributor.chunk_owner(FID, chunk, placement)]) for chunk in range(chunks)
    ]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, ""),
        ({"atime_ns": 9}, ""),
        ({"size": 11}, "11 bytes, expected 10"),
        ({"mtime_ns": 9}, "another modification time"),
        ({"mode": stat.S_IFREG | 0o755, "gid": 3}, "other permissions, group"),
        ({"xattrs": ((b"user.a", b"1"),)}, "other extended attributes"),
        ({"mode": stat.S_IFIFO | 0o4755}, "another type"),
    ],
    ids=str,
)
def test_a_difference_is_named(change: dict[str, Any], text: str) -> None:
    assert stage(["a"]).difference(FILE, FILE._replace(**change)) == text


def test_who_is_not_root_gives_away_neither_files_nor_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    monkeypatch.setattr(os, "getegid", lambda: 8)
    monkeypatch.setattr(os, "getgroups", lambda: [8, 9])
    one = stage(["a"])
    assert one.owned(FILE) == FILE._replace(uid=7, gid=8, mode=stat.S_IFREG | 0o755)
    own = FILE._replace(uid=7, gid=9)
    assert one.owned(own) == own


def test_what_is_not_stored_counts_as_zeros() -> None:
    assert is_of(b"", bytes(100))
    assert is_of(b"", None)
    assert not is_of(b"", b"\0\0x")
    assert not is_of(b"x" * 16, None)
