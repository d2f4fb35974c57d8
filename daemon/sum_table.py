"""The checksums of this daemon's chunks: those in use in memory, all in the index of chunks.

Data and sums cannot change as one. Before the first change of a chunk its entry in the index is emptied, and the
sums are in memory only; they are stored again once the chunk has not been changed for a while. What a killed
daemon leaves without sums gets new ones from the data as they are: a write that was torn has no other sum to be
held against, and what had been acknowledged before stays readable.
"""

import logging
from typing import Final

from gkfs.daemon import keys
from gkfs.daemon.block_sums import SUM_BYTES, ChunkSums, Stored, decode, differing
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.summed_io import sums_of_file
from gkfs.limits import SUMS_KEPT_CHUNKS, SUMS_UNSTORED_CHUNKS

_log = logging.getLogger(__name__)
_LOOKED_AT: Final = 8  # that cannot be forgotten, before one more than wished is kept

Name = tuple[int, int]  # fid, chunk


class SumTable:
    """Sums by chunk. *epoch*: of this run; *power_epoch*: of the last one that ended with the node, 0 for none."""

    def __init__(self, store: MetadataStore, epoch: int, power_epoch: int) -> None:
        self._store = store
        self._epoch = epoch
        self._power_epoch = power_epoch
        self._kept: dict[Name, ChunkSums] = {}  # least recently used first
        self._unstored: dict[
            Name, int
        ] = {}  # those that the index lacks: how far `store_calm` has seen them change

    def known(self, fid: int, chunk: int) -> ChunkSums | None:
        """The chunk's sums, if they are in memory; else no thread is changing it."""
        return self._kept.get((fid, chunk))

    def find(self, fid: int, chunk: int) -> ChunkSums | None:
        """The chunk's sums, whether it has a file or not; None if nobody knows any. Raises OSError."""
        sums = self._kept.get((fid, chunk))
        if sums is None:
            stored = self._stored((fid, chunk))
            if stored is not None and stored.epoch > self._power_epoch:
                sums = ChunkSums(stored.sums, is_stored=True)
                self._make_room()
                self._kept[fid, chunk] = sums
        return sums

    def get(self, fid: int, chunk: int, fd: int) -> ChunkSums:
        """The chunk's sums; its file *fd* is read if nobody knows them. Raises OSError."""
        name = (fid, chunk)
        sums = self.find(fid, chunk)
        if sums is None:
            sums = self._sum(name, fd)
        self._kept.pop(name, None)
        self._kept[name] = sums  # the last one
        return sums

    def change(self, fid: int, chunk: int, fd: int) -> ChunkSums:
        """As `get`, for who will change the chunk: from now on the index has none. Raises OSError."""
        sums = self.get(fid, chunk, fd)
        if sums.is_stored:
            self._store.put_now(keys.chunk(fid, chunk), b"")
            sums.is_stored = False
        self._unstored.setdefault((fid, chunk), -1)
        if len(self._unstored) > SUMS_UNSTORED_CHUNKS:
            self._store_some(SUMS_UNSTORED_CHUNKS // 2)
        return sums

    def drop(self, fid: int, chunk: int) -> None:
        """The chunk is no more."""
        self._kept.pop((fid, chunk), None)
        self._unstored.pop((fid, chunk), None)

    def store_calm(self) -> None:
        """Store the sums that have not changed since the last call; nothing may be uncommitted. Raises OSError."""
        calm: list[Name] = []
        for name, seen in self._unstored.items():
            sums = self._kept[name]
            if sums.changes == seen and not sums.is_busy:
                calm.append(name)
            else:
                self._unstored[name] = sums.changes
        self._put(calm)

    def store_all(self) -> None:
        """Store all; no thread may be working. Raises OSError."""
        self._put(list(self._unstored))

    def _put(self, names: list[Name]) -> None:
        for fid, chunk in names:
            if self._has_entry(fid, chunk):
                self._store.put(keys.chunk(fid, chunk), self._kept[fid, chunk].stored(self._epoch))
        self._store.commit_unsynced()
        for name in names:
            self._kept[name].is_stored = True
            del self._unstored[name]

    def _store_some(self, count: int) -> None:
        # Within a batch, of which the overlay may hold a part: so each by itself.
        for name in [name for name in self._unstored if not self._kept[name].is_busy][:count]:
            if self._has_entry(*name):
                self._store.put_now(keys.chunk(*name), self._kept[name].stored(self._epoch))
            self._kept[name].is_stored = True
            del self._unstored[name]

    def _has_entry(self, fid: int, chunk: int) -> bool:
        # Not when it was removed meanwhile, nor before its file has a record: a restart must find it so.
        return self._store.get(keys.chunk(fid, chunk)) not in (None, keys.UNCLAIMED)

    def _stored(self, name: Name) -> Stored | None:
        return decode(self._store.get(keys.chunk(*name)) or b"")

    def _sum(self, name: Name, fd: int) -> ChunkSums:
        sums = ChunkSums(sums_of_file(fd), is_stored=False)
        stored = self._stored(name)
        if stored is not None:
            count = max(sums.count, len(stored.sums) // SUM_BYTES)
            before = ChunkSums(stored.sums, is_stored=True).of(0, count)
            if changed := len(differing(before, sums.of(0, count))):
                # Lost or torn by the power failure, or rotten: nobody can tell.
                text = "chunk %d of file %x: %d blocks differ from their checksums since the node went down"
                _log.warning(text, name[1], name[0], changed)
        self._unstored[name] = -1
        self._make_room()
        return sums

    def _make_room(self) -> None:
        for _ in range(_LOOKED_AT):
            if len(self._kept) < SUMS_KEPT_CHUNKS:
                return
            name = next(iter(self._kept))
            sums = self._kept.pop(name)
            if name in self._unstored or sums.is_busy:
                self._kept[name] = sums
