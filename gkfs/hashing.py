"""The two hash functions that place records and chunks. Pure; changing one moves everything.

mmh3 spreads keys over 64 bits; jump consistent hashing (Lamping and Veach 2014, arXiv:1406.2294) maps them
to N daemons so that adding one moves only 1/N of the keys.
"""

import struct

import mmh3

_CHUNK = struct.Struct("<QI")


def path_hash(path: bytes) -> int:
    """64 bits of a path."""
    return mmh3.hash64(path, 0, True, False)[0]


def chunk_hash(fid: int, index: int) -> int:
    """64 bits of chunk *index* of the file *fid*."""
    return mmh3.hash64(_CHUNK.pack(fid, index), 0, True, False)[0]


def jump_hash(key: int, buckets: int) -> int:
    """The bucket in ``[0, buckets)`` of a 64-bit *key*; *buckets* is at least 1.

    >>> [jump_hash(k, 4) for k in (0, 1, 2, 3)]
    [0, 0, 3, 3]
    """
    chosen, candidate = 0, 0
    while candidate < buckets:
        chosen = candidate
        key = (key * 2862933555777941757 + 1) & 0xFFFFFFFFFFFFFFFF
        candidate = int((chosen + 1) * (2147483648.0 / ((key >> 33) + 1)))
    return chosen
