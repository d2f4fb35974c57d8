"""The one table of operations: code, name, request, reply, errnos. Client calls and daemon dispatch follow it."""

import errno
from dataclasses import dataclass
from functools import cached_property
from types import UnionType
from typing import Any, Final, Generic, TypeVar, get_args, get_type_hints

from gkfs.audit_messages import (
    AuditChunksReply,
    AuditChunksRequest,
    AuditFilesReply,
    AuditFilesRequest,
    AuditStoreReply,
    AuditStoreRequest,
    MendRequest,
)
from gkfs.bulk_messages import (
    ChecksumReply,
    ChecksumRequest,
    PutReply,
    PutRequest,
    ScanReply,
    ScanRequest,
)
from gkfs.copy_messages import (
    CopyBeginRequest,
    CopyChunkRequest,
    CopyCutRequest,
    CopyDoneRequest,
    CopyPingRequest,
    CopyReadReply,
    CopyReadRequest,
    CopyRecordsRequest,
    LocateReply,
    LocateRequest,
    ViewNewsRequest,
    ViewVoteReply,
    ViewVoteRequest,
)
from gkfs.messages import (
    AllocatedReply,
    AllocatedRequest,
    CreateReply,
    CreateRequest,
    CutChunksRequest,
    DetachRequest,
    Empty,
    ExtendRequest,
    HelloReply,
    HelloRequest,
    HoldReply,
    HoldRequest,
    LinkRequest,
    LookupReply,
    LookupRequest,
    OutgrowReply,
    OutgrowRequest,
    ReadChunkReply,
    ReadChunkRequest,
    ReaddirReply,
    ReaddirRequest,
    RecordReply,
    ReleaseRequest,
    RemovexattrRequest,
    RenameReply,
    RenameRequest,
    ReserveReply,
    ReserveRequest,
    RmdirRequest,
    SetattrRequest,
    SetxattrRequest,
    StatRequest,
    StatusReply,
    SyncChunksRequest,
    SyncMetadataRequest,
    TouchRequest,
    TruncateRequest,
    UnlinkReply,
    UnlinkRequest,
    WhereReply,
    WhereRequest,
    WriteChunkReply,
    WriteChunkRequest,
    WriteInlineReply,
    WriteInlineRequest,
    WriteLeaseReply,
    WriteLeaseRequest,
)
from gkfs.peer_messages import (
    AdoptReply,
    AdoptRequest,
    DropLinkRequest,
    ForgetIntentRequest,
    PutInodeRequest,
    PutRecordsRequest,
    SealRequest,
    TreeRequest,
    UnsealRequest,
)
from gkfs.usage_messages import UsageReply, UsageRequest

Q = TypeVar("Q", bound=tuple)  # type: ignore[type-arg]
R = TypeVar("R", bound=tuple)  # type: ignore[type-arg]


@dataclass(frozen=True, eq=False)
class Operation(Generic[Q, R]):
    """One row. *idempotent*: a repeat gives the same outcome, so its reply need not be remembered."""

    code: int
    name: str
    request: type[Q]
    reply: type[R]
    errnos: frozenset[int] = frozenset()
    idempotent: bool = False
    bulk_request: bool = False
    bulk_reply: bool = False
    by_inode: bool = False  # its path may be an inode address
    may_lack_record: bool = False  # b"" in its reply stands for no record
    role: str = ""  # the only one in which it may be asked for; "": any

    @cached_property
    def request_types(self) -> tuple[type | None, ...]:
        """The type of each request field in the body, for checking what came from the wire."""
        return _types(self.request, bulk=self.bulk_request)

    @cached_property
    def reply_types(self) -> tuple[type | None, ...]:
        """The same of the reply."""
        return _types(self.reply, bulk=self.bulk_reply)

    @cached_property
    def request_lists(self) -> tuple["ListField", ...]:
        """What the lists in a request may hold."""
        return _lists(self.request)

    @cached_property
    def reply_lists(self) -> tuple["ListField", ...]:
        """What the lists in a reply may hold."""
        return _lists(self.reply)

    @cached_property
    def reply_records(self) -> tuple[int, ...]:
        """Which fields of the reply are metadata records, or lists of them."""
        names = get_type_hints(self.reply)
        return tuple(index for index, name in enumerate(names) if name in ("record", "records"))


# Index of a field that is a list, and the types its items may have.
ListField = tuple[int, frozenset[type]]


def _types(message: type[tuple[Any, ...]], *, bulk: bool) -> tuple[type | None, ...]:
    hints = get_type_hints(message)
    types = [hint if isinstance(hint, type) else list for hint in hints.values()]
    return tuple(types[:-1] if bulk else types)


def _lists(message: type[tuple[Any, ...]]) -> tuple[ListField, ...]:
    found: list[ListField] = []
    for index, hint in enumerate(get_type_hints(message).values()):
        if getattr(hint, "__origin__", None) is list:
            (item,) = get_args(hint)
            kinds = get_args(item) if isinstance(item, UnionType) else (item,)
            found.append((index, frozenset(getattr(kind, "__origin__", kind) for kind in kinds)))
    return tuple(found)


_MISSING = frozenset({errno.ENOENT})
_RECORD = frozenset({errno.ENOENT, errno.ESTALE})
_DATA = _RECORD | {errno.EFBIG}
_DETACH = _RECORD | {errno.EPERM, errno.EBUSY}
_XATTR = _RECORD | {errno.ENODATA}
_NAME = frozenset({errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.ENOENT, errno.ESTALE, errno.EBUSY})
_REMOVE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EBUSY, errno.ESTALE})
_SEAL = frozenset({errno.ENOTEMPTY, errno.EBUSY})
_TREE = frozenset({errno.EBUSY, errno.ENOTEMPTY, errno.ENAMETOOLONG})

HELLO = Operation(1, "hello", HelloRequest, HelloReply, idempotent=True)
STATUS = Operation(2, "status", Empty, StatusReply, idempotent=True)
SHUTDOWN = Operation(3, "shutdown", Empty, Empty, idempotent=True)
AUDIT_STORE = Operation(4, "audit_store", AuditStoreRequest, AuditStoreReply, idempotent=True, role="control")
AUDIT_FILES = Operation(5, "audit_files", AuditFilesRequest, AuditFilesReply, idempotent=True, role="control")
MEND = Operation(6, "mend", MendRequest, Empty, frozenset({errno.ESTALE}), role="control")
AUDIT_CHUNKS = Operation(8, "audit_chunks", AuditChunksRequest, AuditChunksReply, idempotent=True, role="control")
USAGE = Operation(7, "usage", UsageRequest, UsageReply, idempotent=True)
LOOKUP = Operation(9, "lookup", LookupRequest, LookupReply, _RECORD, idempotent=True)
STAT = Operation(10, "stat", StatRequest, RecordReply, _RECORD, idempotent=True, by_inode=True)
CREATE = Operation(11, "create", CreateRequest, CreateReply, _NAME)
UNLINK = Operation(12, "unlink", UnlinkRequest, UnlinkReply, _REMOVE)
RMDIR = Operation(13, "rmdir", RmdirRequest, Empty, _REMOVE)
READDIR = Operation(14, "readdir", ReaddirRequest, ReaddirReply, _RECORD, idempotent=True)
SETATTR = Operation(15, "setattr", SetattrRequest, RecordReply, _RECORD, idempotent=True, by_inode=True)
EXTEND = Operation(16, "extend", ExtendRequest, RecordReply, _DATA, idempotent=True, by_inode=True)
RESERVE = Operation(17, "reserve", ReserveRequest, ReserveReply, _DATA, by_inode=True)
TRUNCATE = Operation(18, "truncate", TruncateRequest, RecordReply, _DATA, idempotent=True, by_inode=True)
RENAME = Operation(19, "rename", RenameRequest, RenameReply, _REMOVE | _NAME)
RELEASE = Operation(20, "release", ReleaseRequest, Empty, idempotent=True)
TOUCH = Operation(21, "touch", TouchRequest, Empty, _RECORD)
LINK = Operation(23, "link", LinkRequest, RecordReply, _NAME | {errno.EMLINK})
DETACH = Operation(24, "detach", DetachRequest, Empty, _DETACH, idempotent=True, by_inode=True)
WHERE = Operation(25, "where", WhereRequest, WhereReply, idempotent=True, by_inode=True)
HOLD = Operation(26, "hold", HoldRequest, HoldReply, idempotent=True)
SETXATTR = Operation(27, "setxattr", SetxattrRequest, RecordReply, _RECORD, idempotent=True, by_inode=True)
REMOVEXATTR = Operation(28, "removexattr", RemovexattrRequest, RecordReply, _XATTR, by_inode=True)
PUT = Operation(29, "put", PutRequest, PutReply, _NAME, bulk_request=True, may_lack_record=True)
SCAN = Operation(35, "scan", ScanRequest, ScanReply, idempotent=True)
WRITE_INLINE = Operation(
    37,
    "write_inline",
    WriteInlineRequest,
    WriteInlineReply,
    _DATA,
    idempotent=True,
    bulk_request=True,
    by_inode=True,
)
LEASE = Operation(39, "lease", StatRequest, LookupReply, _RECORD, idempotent=True, by_inode=True)
OUTGROW = Operation(38, "outgrow", OutgrowRequest, OutgrowReply, _RECORD, idempotent=True, by_inode=True)
WRITE_LEASE = Operation(
    49, "write_lease", WriteLeaseRequest, WriteLeaseReply, _RECORD, idempotent=True, by_inode=True
)
SYNC_METADATA = Operation(22, "sync_metadata", SyncMetadataRequest, Empty, idempotent=True)

WRITE_CHUNK = Operation(30, "write_chunk", WriteChunkRequest, WriteChunkReply, idempotent=True, bulk_request=True)
READ_CHUNK = Operation(31, "read_chunk", ReadChunkRequest, ReadChunkReply, idempotent=True, bulk_reply=True)
CUT_CHUNKS = Operation(32, "cut_chunks", CutChunksRequest, Empty, idempotent=True)
SYNC_CHUNKS = Operation(33, "sync_chunks", SyncChunksRequest, Empty, idempotent=True)
ALLOCATED = Operation(34, "allocated", AllocatedRequest, AllocatedReply, idempotent=True)
CHECKSUM = Operation(36, "checksum", ChecksumRequest, ChecksumReply, idempotent=True)

SEAL = Operation(40, "seal", SealRequest, Empty, _SEAL, idempotent=True, role="peer")
UNSEAL = Operation(41, "unseal", UnsealRequest, Empty, idempotent=True, role="peer")
ADOPT = Operation(42, "adopt", AdoptRequest, AdoptReply, _REMOVE | _NAME, may_lack_record=True, role="peer")
FORGET_INTENT = Operation(43, "forget_intent", ForgetIntentRequest, Empty, idempotent=True, role="peer")
TREE = Operation(44, "tree", TreeRequest, Empty, _TREE, idempotent=True, role="peer")
PUT_RECORDS = Operation(
    45, "put_records", PutRecordsRequest, Empty, frozenset({errno.EBUSY}), idempotent=True, role="peer"
)
PUT_INODE = Operation(46, "put_inode", PutInodeRequest, Empty, idempotent=True, role="peer")
DROP_LINK = Operation(47, "drop_link", DropLinkRequest, Empty, idempotent=True, role="peer")

_COPY = frozenset({errno.ESTALE})

COPY_BEGIN = Operation(
    60, "copy_begin", CopyBeginRequest, Empty, _COPY | {errno.EEXIST}, idempotent=True, role="copy"
)
COPY_RECORDS = Operation(
    61, "copy_records", CopyRecordsRequest, Empty, _COPY, idempotent=True, bulk_request=True, role="copy"
)
COPY_CHUNK = Operation(
    62, "copy_chunk", CopyChunkRequest, Empty, _COPY, idempotent=True, bulk_request=True, role="copy"
)
COPY_CUT = Operation(63, "copy_cut", CopyCutRequest, Empty, _COPY, idempotent=True, role="copy")
COPY_READ = Operation(
    68, "copy_read", CopyReadRequest, CopyReadReply, _COPY, idempotent=True, bulk_reply=True, role="copy"
)
COPY_DONE = Operation(64, "copy_done", CopyDoneRequest, Empty, _COPY, idempotent=True, role="copy")
COPY_PING = Operation(65, "copy_ping", CopyPingRequest, Empty, _COPY, idempotent=True, role="copy")
VIEW_VOTE = Operation(66, "view_vote", ViewVoteRequest, ViewVoteReply, _COPY, idempotent=True, role="copy")
LOCATE = Operation(48, "locate", LocateRequest, LocateReply, _MISSING, idempotent=True)
VIEW_NEWS = Operation(67, "view_news", ViewNewsRequest, Empty, idempotent=True, role="copy")

TABLE: Final[dict[int, Operation[tuple, tuple]]] = {  # type: ignore[type-arg]
    row.code: row for row in list(globals().values()) if isinstance(row, Operation)
}

# The operations that bring data; the last field of the request says how many bytes at most.
READS: Final = frozenset(row.code for row in TABLE.values() if row.bulk_reply)
