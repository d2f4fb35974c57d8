r"""Keys of the metadata store: the one place that says what each stored key means. Pure.

Records of paths have keys that start with ``/`` or are ``\0`` (the root), see `gkfs.paths`. All other tables
start with one byte from 0x01 to 0x1f; numbers are big-endian, so that ranges follow their order:

    01 fid           record of a file without a name that is, or may be, still open somewhere
    02 fid           a directory in which nothing may be created: b"" when it was removed (fids are never reused,
                     so this stays for ever), b"?" while that is being decided
    03 intent        an operation over several daemons begun here (msgpack, see `rmdir` and `rename`)
    04 fid chunk     the chunk exists here; written before its file, so this index is a superset of the files;
                     b"" or its checksums (see `block_sums`), or b"?" until the record that came with the data is
                     there: else a restart removes it
    05 intent        what ADOPT answered to this intent (msgpack), until the source says FORGET_INTENT
    06 fid           chunks of this file are still to be cut (msgpack, see `reclaim` and `truncate`)
    07 client slot   the latest replies to this client (msgpack, see `session`), for repeats after a restart
    08 intent        a directory rename holds the lock of two subtrees here (msgpack, see `tree`)
    09 fid           record of a file that has several names; the key is its inode address (`gkfs.paths`)
    0a fid client    this client has the file of table 01 open
    0b intent key    record that this key will have when the exchange of two trees is done (see `tree`)
    0c               in a copy only: how far it is (msgpack, see `copies`)
"""

import struct

from gkfs import paths
from gkfs.limits import CHUNK_SIZE_BYTES

ORPHANS = b"\x01"
SEALS = b"\x02"
INTENTS = b"\x03"
CHUNKS = b"\x04"
ADOPTED = b"\x05"
CUTS = b"\x06"
REPLIES = b"\x07"
TREE_LOCKS = b"\x08"
INODES = b"\x09"
HOLDERS = b"\x0a"
STAGED = b"\x0b"
COPIED = b"\x0c"

UNCLAIMED = b"?"  # value of a chunk's entry: its record does not exist yet

_FID = struct.Struct(">cQ")
_SLOT = struct.Struct(">H")
_CHUNK = struct.Struct(">cQI")

# Every record of a path: the root's key, and all keys that start with a slash.
ROOT: bytes = paths.key(paths.ROOT)
PATHS = (b"/", b"0")


def table(prefix: bytes) -> tuple[bytes, bytes]:
    """Keys [first, end) of one table."""
    return prefix, bytes([prefix[0] + 1])


def orphan(fid: int) -> bytes:
    return _FID.pack(ORPHANS, fid)


def seal(fid: int) -> bytes:
    return _FID.pack(SEALS, fid)


def intent(name: bytes) -> bytes:
    return INTENTS + name


def chunk(fid: int, index: int) -> bytes:
    return _CHUNK.pack(CHUNKS, fid, index)


def chunk_range(fid: int, first: int) -> tuple[bytes, bytes]:
    """Keys [first, end) of the chunks of *fid* from index *first* on."""
    return _CHUNK.pack(CHUNKS, fid, first), _FID.pack(CHUNKS, fid) + b"\xff\xff\xff\xff\xff"


def chunk_of_key(key: bytes) -> tuple[int, int]:
    """(fid, index) of a key of the chunk table."""
    _, fid, index = _CHUNK.unpack(key)
    return fid, index


def kept_bytes(key: bytes, size: int) -> int:
    """How many bytes of the chunk of *key* remain in a file cut to *size*."""
    return max(0, min(CHUNK_SIZE_BYTES, size - chunk_of_key(key)[1] * CHUNK_SIZE_BYTES))


def adopted(name: bytes) -> bytes:
    return ADOPTED + name


def holder(fid: int, client_id: bytes) -> bytes:
    return _FID.pack(HOLDERS, fid) + client_id


def holder_of_key(key: bytes) -> tuple[int, bytes]:
    """(fid, client id) of a key of the table of holders."""
    return _FID.unpack_from(key)[1], key[_FID.size :]


def holders(fid: int) -> tuple[bytes, bytes]:
    """Keys [first, end) of the clients that have the file *fid* open."""
    return _FID.pack(HOLDERS, fid), _FID.pack(HOLDERS, fid) + b"\xff" * 17


def cut(fid: int) -> bytes:
    return _FID.pack(CUTS, fid)


def fid_of_key(key: bytes) -> int:
    """The fid in a key of the tables of nameless files, seals and cuts."""
    fid: int = _FID.unpack(key)[1]
    return fid


def replies(client_id: bytes, slot: int) -> bytes:
    return REPLIES + client_id + _SLOT.pack(slot)


def all_replies(client_id: bytes) -> tuple[bytes, bytes]:
    """From the first to beyond the last of a client."""
    return REPLIES + client_id, REPLIES + client_id + b"\xff" * (_SLOT.size + 1)


def client_and_slot(key: bytes) -> tuple[bytes, int]:
    """The inverse of `replies`."""
    slot: int = _SLOT.unpack(key[-_SLOT.size :])[0]
    return key[1 : -_SLOT.size], slot


def tree_lock(name: bytes) -> bytes:
    return TREE_LOCKS + name


def staged(name: bytes, key: bytes) -> bytes:
    return STAGED + name + key


def staged_range(name: bytes) -> tuple[bytes, bytes]:
    """Keys [first, end) of what the exchange *name* has staged; `key_of_staged` is the inverse."""
    return STAGED + name, STAGED + name + b"0"  # no path's key is as high


def key_of_staged(key: bytes) -> bytes:
    return key[17:]
