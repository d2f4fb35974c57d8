"""What travels when whole trees are moved: requests that save round trips; see `gkfs.messages` for the rules."""

from typing import NamedTuple

from gkfs.messages import Buffer


class PutRequest(NamedTuple):
    """Create an entry of any kind with all it shall have, a file with its first chunk.

    *size* and *sparse* only for regular files: what lies behind *data*, up to *size*, is a hole, or is written
    afterwards. The first chunk is on the daemon of the record (see `metadentry.PLACEMENT_HEAD`). A small file
    whose data is all there has no chunk: it is in the record.
    """

    path: bytes
    parent_fid: int  # as in CreateRequest
    mode: int  # with the file type
    uid: int
    gid: int
    rdev: int
    size: int
    sparse: bool
    atime_ns: int
    mtime_ns: int
    now_ns: int
    target: bytes  # of a symlink
    xattrs: list[bytes]  # name, value, name, value
    data: Buffer  # at most CHUNK_SIZE_BYTES, and *size*


class PutReply(NamedTuple):
    fid: int
    record: bytes  # b"": created; else what is there already, and stays as it is


class ScanRequest(NamedTuple):
    """Records of everything below *path* that are here, with keys above *after* (b"" for the first page)."""

    path: bytes
    after: bytes


class ScanReply(NamedTuple):
    keys: list[bytes]  # of paths, see `gkfs.paths`: first the direct children, then what is deeper
    records: list[bytes]  # one for each key
    more: bool


class ChecksumRequest(NamedTuple):
    """Checksums of chunks that are here: one item of each list for each."""

    fids: list[int]
    chunks: list[int]  # indexes
    lengths: list[int]  # bytes from the chunk's begin; what is not stored of them counts as zeros


class ChecksumReply(NamedTuple):
    digests: list[bytes]  # MurmurHash3, x64, 128 bits; b"" where nothing is stored
