"""What daemons ask each other; see `gkfs.messages`, which has the rest."""

from typing import Final, NamedTuple


class SealRequest(NamedTuple):
    """Forbid creation in a directory about to be removed, if it is empty here; ENOTEMPTY otherwise."""

    path: bytes
    fid: int


class UnsealRequest(NamedTuple):
    """What was decided of a sealed directory: *removed* keeps the seal for ever, else creation goes on."""

    fid: int
    removed: bool


class AdoptRequest(NamedTuple):
    """Second half of a rename, at the owner of the target. Repeating one *intent* changes nothing more."""

    intent: bytes  # 16 bytes, names the rename for ever
    path: bytes
    record: bytes
    parent_fid: int
    flags: int
    open_fid: int
    client_id: bytes  # keeps the replaced file open, if anyone does
    now_ns: int
    source: bytes  # where the record was, b"" for a new link


class AdoptReply(NamedTuple):
    """*record*: what the target was, for RENAME_EXCHANGE."""

    replaced_fid: int
    kept: bool
    record: bytes


class ForgetIntentRequest(NamedTuple):
    """What *intent* asked for is finished at its coordinator: the answer kept under its name may go."""

    intent: bytes


class PutInodeRequest(NamedTuple):
    """The record of *fid*, for its inode address; one that is there stays."""

    fid: int
    record: bytes


class DropLinkRequest(NamedTuple):
    """A name of *fid* is gone, with the last one the file. Repeating one *intent* changes nothing more."""

    intent: bytes
    fid: int
    client_id: bytes  # keeps a file without names, if it is *open_fid*
    open_fid: int
    now_ns: int


class TreeRequest(NamedTuple):
    """A directory rename at every daemon; requests below *source* wait from lock until drop or unlock."""

    intent: bytes
    source: bytes
    target: bytes
    step: str  # one of the TREE_* steps
    exchange: bool  # what is below target goes below source at the same time
    client_id: bytes  # whose rename it is


TREE_LOCK: Final = "lock"
TREE_COPY: Final = "copy"  # every record below source is put under its new path at that path's owner
TREE_DROP: Final = "drop"  # records below source go, the lock is lifted
TREE_UNDO: Final = "undo"  # records copied below target go, the lock is lifted


class PutRecordsRequest(NamedTuple):
    """Records of a directory rename under their new paths."""

    intent: bytes
    paths: list[bytes]
    records: list[bytes]
