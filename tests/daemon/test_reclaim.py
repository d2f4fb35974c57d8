"""Chunks of removed files: what is removed of some stays removed, whatever becomes of others."""

from pathlib import Path
from typing import Any, cast

import trio

from gkfs.daemon import keys
from gkfs.daemon.guards import Blocked, Guard, Guards
from gkfs.daemon.reclaim import Reclaimer
from gkfs.daemon.store import MetadataStore
from gkfs.distributor import Distributor

BUSY = 7


class Chunks:
    """Stands for the chunks of a daemon, of which those of one file are being copied."""

    def __init__(self, store: MetadataStore) -> None:
        self.store = store

    def cut(self, fid: int, size: int) -> None:
        if fid == BUSY:
            raise Blocked(Guard("busy"))
        self.store.delete(keys.chunk(fid, 0))


def test_a_file_that_is_busy_brings_no_others_back(tmp_path: Path) -> None:
    async def main() -> None:
        store = MetadataStore(tmp_path / "metadata")
        fids = list(range(1, 41))
        for fid in fids:
            store.put(keys.chunk(fid, 0), b"")
        store.commit()
        async with trio.open_nursery() as nursery:
            chunks = cast(Any, Chunks(store))
            reclaimer = Reclaimer(0, store, chunks, Guards(), Distributor(1), cast(Any, None), nursery)
            assert await reclaimer._cut_here(fids) == [BUSY]
        store.rollback()
        assert [fid for fid in fids if store.get(keys.chunk(fid, 0)) is not None] == [BUSY]
        store.close()

    trio.run(main)
