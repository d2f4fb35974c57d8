"""How a daemon divides the file descriptors it may have: for chunks, tables of RocksDB, and connections."""

import resource
from typing import NamedTuple

from gkfs.limits import CONNECTIONS_MAX, DESCRIPTORS_SPARE, HANDSHAKES_MAX, METADATA_FILES_MAX, OPEN_CHUNKS_MAX

_LEAST = 8  # of each kind, however few there are


class Descriptors(NamedTuple):
    """How many of each kind may be open."""

    connections: int
    handshakes: int
    chunks: int
    tables: int


def take_all() -> None:
    """Have this process open as many files as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def shares() -> Descriptors:
    """What this process may open, divided: half at most for files."""
    return divided(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def divided(most: int) -> Descriptors:
    """*most* descriptors, divided.

    >>> divided(1 << 20)
    Descriptors(connections=4096, handshakes=1024, chunks=512, tables=256)
    >>> divided(256)
    Descriptors(connections=72, handshakes=24, chunks=64, tables=32)
    """
    usable = max(0, most - DESCRIPTORS_SPARE)
    chunks = max(_LEAST, min(OPEN_CHUNKS_MAX, usable // 3))
    tables = max(_LEAST, min(METADATA_FILES_MAX, usable // 6))
    rest = usable - chunks - tables
    handshakes = max(_LEAST, min(HANDSHAKES_MAX, rest // 4))
    return Descriptors(max(_LEAST, min(CONNECTIONS_MAX, rest - handshakes)), handshakes, chunks, tables)
