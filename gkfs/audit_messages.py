"""What `gkfs fsck` asks daemons: their stores as they are, and changes to them."""

from typing import NamedTuple


class AuditStoreRequest(NamedTuple):
    """Keys and values of the metadata store as they are, in [first, end)."""

    first: bytes
    end: bytes


class AuditStoreReply(NamedTuple):
    keys: list[bytes]  # ascending
    values: list[bytes]
    sizes: list[int]  # of the chunk files, -1 where there is none, if *first* is a key of the chunk index
    more: bool


class AuditFilesRequest(NamedTuple):
    """Files among the chunks that the chunk index does not know, after *after*, where b"" is the begin."""

    after: bytes


class AuditFilesReply(NamedTuple):
    names: list[bytes]  # below the folder of the chunks
    sizes: list[int]
    after: bytes  # for the next request; b"": that was all


class AuditChunksRequest(NamedTuple):
    """Which chunks are not what they were when they were written, after the index key *after*; b"": the begin."""

    after: bytes


class AuditChunksReply(NamedTuple):
    """Nothing of what has no checksums."""

    keys: list[bytes]  # of damaged chunks
    blocks: list[int]  # how many of their blocks are
    offsets: list[int]  # of the first one of them, in bytes
    checked: int  # chunks that were read
    after: bytes  # for the next request; b"": that was all


class MendRequest(NamedTuple):
    """Change the metadata store, all of it or nothing: where each key has the value expected it gets the other.

    None stands for the absence of a key. It changes records and holders, and adds to the chunk index.
    """

    keys: list[bytes]
    expected: list[bytes | None]
    values: list[bytes | None]


# --- metadata --------------------------------------------------------------------------------------------
