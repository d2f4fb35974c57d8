"""Which daemon owns a path, and which a chunk. The only place where that is decided."""

from functools import lru_cache

from gkfs.hashing import chunk_hash, jump_hash, path_hash
from gkfs.metadentry import PLACEMENT_HASHED, PLACEMENT_HEAD


class Distributor:
    """Maps paths and chunks to daemon indexes in ``[0, daemon_count)`` by hashing, without any table."""

    def __init__(self, daemon_count: int) -> None:
        if daemon_count < 1:
            raise ValueError(f"a file system needs at least one daemon, got {daemon_count}")
        self.daemon_count = daemon_count

    def path_owner(self, path: bytes) -> int:
        """The daemon that holds the record of *path*."""
        if self.daemon_count == 1:
            return 0
        return jump_hash(path_hash(path), self.daemon_count)

    def chunk_owner(self, fid: int, index: int, placement: int = PLACEMENT_HASHED) -> int:
        """The daemon that holds chunk *index* of the file *fid*."""
        if placement != PLACEMENT_HASHED:
            if placement < PLACEMENT_HEAD:
                return placement - 1
            if index == 0:
                return placement - PLACEMENT_HEAD
        if self.daemon_count == 1:
            return 0
        return _chunk_owner(fid, index, self.daemon_count)

    def chunk_owners(self, fid: int, first: int, end: int, placement: int = PLACEMENT_HASHED) -> set[int]:
        """The daemons that may hold chunks of *fid* with an index in ``[first, end)``; all when there are many."""
        if PLACEMENT_HASHED != placement < PLACEMENT_HEAD:
            return {placement - 1} if end > first else set()
        if end - first >= 4 * self.daemon_count:
            return set(range(self.daemon_count))
        return {self.chunk_owner(fid, index, placement) for index in range(first, end)}


@lru_cache(maxsize=4096)
def _chunk_owner(fid: int, index: int, daemon_count: int) -> int:
    # Small writes and reads ask for the same chunk again and again.
    return jump_hash(chunk_hash(fid, index), daemon_count)
