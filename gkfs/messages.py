"""What travels: requests and replies, one NamedTuple each; `gkfs.operations` says which belongs to what.

On the wire the fields are one msgpack array. Where the table sets `bulk_request` or `bulk_reply` the last field is
file data: it travels beside the body and is never copied into it.

Addressing: a request about one record names its *path*, or its inode address, and the *fid* it expects there;
fid 0 takes whatever the path holds. When it holds another file, a link, or nothing, the daemon looks for a
nameless open file of that fid, and then answers ESTALE (ENOENT for fid 0); WHERE tells more. *now_ns* is the
client's clock, so that times compare on the writing node. A `record` is a stored metadata record
(`gkfs.metadentry`).
"""

from typing import Final, NamedTuple

Buffer = bytes | bytearray | memoryview


class Empty(NamedTuple):
    """A request without arguments or a reply that says no more than that it is done."""


class RecordReply(NamedTuple):
    record: bytes


# --- connections and daemons -----------------------------------------------------------------------------


class HelloRequest(NamedTuple):
    """First message of a connection, right behind the proof; who calls is known from the greeting."""

    software: str


class HelloReply(NamedTuple):
    """*power_epoch*: the last of its runs that ended with its node, 0 for none: it may have gone back then."""

    software: str
    daemon_count: int
    boot_epoch: int
    power_epoch: int


class StatusReply(NamedTuple):
    """*device*: identifies the local file system under rootdir, so that daemons sharing one are not summed."""

    daemon_index: int
    host: str
    pid: int
    software: str
    started_ns: int
    files: int  # records of regular files, symlinks and special files
    directories: int
    used_bytes: int  # in chunk files
    free_bytes: int
    total_bytes: int
    device: int
    requests: int
    batches: int  # groups of requests that were executed and answered as one
    connections: int
    copies: int  # of what is stored here, complete ones, this one included
    records_bytes: int  # of the disk, by the metadata store
    capacity_bytes: int  # for both together, 0: as much as the disk has

    damaged_blocks: int  # found since the start by their checksums


class LookupRequest(NamedTuple):
    path: bytes
    parent_fid: int = 0  # as in CreateRequest


class LookupReply(NamedTuple):
    """*leased*: it stays as it is for `LEASE_S` from when the request was sent (see `gkfs.daemon.leases`)."""

    record: bytes
    leased: bool


class StatRequest(NamedTuple):
    path: bytes
    fid: int


class CreateRequest(NamedTuple):
    """Any kind of entry: the file type is in *mode*. *target* only for symlinks."""

    path: bytes
    parent_fid: int  # ESTALE when that directory was moved meanwhile, ENOENT when removed; 0: do not check
    mode: int
    uid: int
    gid: int
    rdev: int
    exclusive: bool  # else an existing entry is returned as it is
    target: bytes
    now_ns: int
    names_lease: int = 0  # that the client has on the directory's names at this daemon; 0: none


class CreateReply(NamedTuple):
    """*names* come with a new lease: all that this daemon has of the directory, see `gkfs.daemon.name_leases`."""

    record: bytes
    created: bool
    names_lease: int  # from now on; 0: none
    names: list[bytes]


class UnlinkRequest(NamedTuple):
    path: bytes
    parent_fid: int  # as in CreateRequest
    open_fid: int  # when the entry is this file, keep its data until RELEASE; 0: nobody here has it open
    now_ns: int


class UnlinkReply(NamedTuple):
    fid: int
    kept: bool


class RmdirRequest(NamedTuple):
    path: bytes
    parent_fid: int  # as in CreateRequest
    now_ns: int


class ReaddirRequest(NamedTuple):
    """Entries of *path* that this daemon owns, with names above *after* (b"" for the first page)."""

    path: bytes
    fid: int  # of *path*; ESTALE, ENOENT or 0 as with parent_fid in CreateRequest
    after: bytes
    limit: int


class ReaddirReply(NamedTuple):
    names: list[bytes]  # ascending
    records: list[bytes]  # one for each name, without data
    more: bool


SET_MODE: Final = 1
SET_UID: Final = 2
SET_GID: Final = 4
SET_ATIME: Final = 8
SET_MTIME: Final = 16
DROP_SET_ID: Final = 32  # of a file: what chown does even if neither owner nor group changes


class SetattrRequest(NamedTuple):
    """Only the fields named in *which* (SET_* bits, DROP_SET_ID) are taken; ctime becomes *now_ns*."""

    path: bytes
    fid: int
    which: int
    mode: int  # permission bits only, the type stays
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    now_ns: int


class ExtendRequest(NamedTuple):
    """Written data becomes known: size = max(size, *size*), mtime and ctime = max(theirs, *mtime_ns*)."""

    path: bytes
    fid: int
    size: int
    mtime_ns: int
    sparse: bool  # it may have left a hole
    unprivileged: bool  # not by root: set-id bits go
    settled: bool = False  # nothing is on its way any more: the write lease is given back
    leaves: bool = False  # nor will anything be: the client is no writer any more


class ReserveRequest(NamedTuple):
    """Atomic append: the owner moves the end of the file by *length* and returns where it was."""

    path: bytes
    fid: int
    length: int
    mtime_ns: int


class ReserveReply(NamedTuple):
    offset: int
    record: bytes


class WriteInlineRequest(NamedTuple):
    """Write where the data of the file are in its record, and remain so: up to `INLINE_DATA_MAX_BYTES`."""

    path: bytes
    fid: int
    offset: int
    mtime_ns: int
    unprivileged: bool  # as in ExtendRequest
    data: Buffer


class WriteInlineReply(NamedTuple):
    record: bytes
    written: bool  # False: the data are in chunks by now, or would be too large; nothing has changed


class OutgrowRequest(NamedTuple):
    """The file is about to have chunks: if its data are in the record they move to the first one.

    Whoever writes to chunks of a file must know a record of it without FLAG_INLINE, which never comes back. The
    client is a writer from now on, as with WRITE_LEASE.
    """

    path: bytes
    fid: int
    placement: int  # wanted for all chunks (see `gkfs.metadentry`), if there are no data yet; 0: any
    lease: bool = False  # as in WriteLeaseRequest


class OutgrowReply(NamedTuple):
    record: bytes
    leased: bool  # as in WriteLeaseReply


class WriteLeaseRequest(NamedTuple):
    """The client is about to write to chunks of the file, see `gkfs.daemon.writers`."""

    path: bytes
    fid: int
    behind: bool  # it has the lease as far as it knows, and data on its way
    lease: bool  # it wants one


class WriteLeaseReply(NamedTuple):
    """*leased*: nobody else writes; counted from when the request was sent, see `gkfs.client.write_leases`."""

    leased: bool


class TruncateRequest(NamedTuple):
    """Set the size. *known_size*: the largest size the caller knows of, where unpublished writes reached.

    When it returns, no byte from *size* on is in any chunk.
    """

    path: bytes
    fid: int
    size: int
    known_size: int
    now_ns: int


RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2


class RenameRequest(NamedTuple):
    """Sent to the owner of *source*, which coordinates. *flags*: one of RENAME_*, or 0."""

    source: bytes
    target: bytes
    source_parent_fid: int  # as in CreateRequest
    target_parent_fid: int  # likewise
    flags: int
    open_fid: int  # as in UnlinkRequest, for the file that *target* named
    now_ns: int


class RenameReply(NamedTuple):
    record: bytes  # of the renamed entry
    replaced_fid: int  # 0: *target* did not exist; the fid of *record*: both were names of one file, and stay
    kept: bool
    exchanged_directory: bool  # what got the name *source* is one


class LinkRequest(NamedTuple):
    """Give a file one more name. Sent to the owner of its inode address, where DETACH has put its record."""

    fid: int
    path: bytes
    parent_fid: int  # as in CreateRequest
    now_ns: int


class DetachRequest(NamedTuple):
    """Move a file's record to its inode address, and put a link under its name; done already is fine."""

    path: bytes
    fid: int


class WhereRequest(NamedTuple):
    """Where the record of *fid* is that was at *path*: still there, or where renames may have taken it."""

    path: bytes
    fid: int


class WhereReply(NamedTuple):
    # Only *path*, or its inode address: it is there. Else where to ask next, the likeliest first.
    paths: list[bytes]


class HoldRequest(NamedTuple):
    """This client has these files open. Repeated every `HOLD_RENEW_S`: it ends by itself."""

    paths: list[bytes]
    fids: list[int]  # one for each path


class HoldReply(NamedTuple):
    lost: list[int]  # those fids whose records are elsewhere or gone


class ReleaseRequest(NamedTuple):
    """The last handle of this client to a file is closed; a nameless one goes when nobody else has it open."""

    fid: int


class SetxattrRequest(NamedTuple):
    path: bytes
    fid: int
    name: bytes
    value: bytes
    now_ns: int


class RemovexattrRequest(NamedTuple):
    path: bytes
    fid: int
    name: bytes
    now_ns: int


class TouchRequest(NamedTuple):
    """Entries of a directory changed: mtime and ctime = max(theirs, *mtime_ns*), nlink += *subdirectories*."""

    path: bytes
    fid: int
    mtime_ns: int
    subdirectories: int


class SyncMetadataRequest(NamedTuple):
    """The write-ahead log reaches the disk."""


# --- data ------------------------------------------------------------------------------------------------


class WriteChunkRequest(NamedTuple):
    fid: int
    chunk: int  # index
    offset: int
    data: Buffer  # 1 to CHUNK_SIZE_BYTES - offset bytes


class WriteChunkReply(NamedTuple):
    length: int


class ReadChunkRequest(NamedTuple):
    fid: int
    chunk: int  # index
    offset: int
    length: int


class ReadChunkReply(NamedTuple):
    data: Buffer  # shorter than asked where the chunk ends or is missing: the rest is a hole


class CutChunksRequest(NamedTuple):
    """Remove every byte of *fid* from file offset *size* on; 0 removes the file's chunks altogether."""

    fid: int
    size: int


class SyncChunksRequest(NamedTuple):
    fid: int


class AllocatedRequest(NamedTuple):
    """How much space the chunks of *fid* take here."""

    fid: int


class AllocatedReply(NamedTuple):
    allocated_bytes: int  # without holes
