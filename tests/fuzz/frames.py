"""Frames to fuzz with, from a seed: requests and replies with well-typed but hostile fields, and mutated bytes."""

import random
import stat
from typing import Any, Final, get_args, get_type_hints

from gkfs import metadentry, wire
from gkfs.limits import CHUNK_SIZE_BYTES, FILE_SIZE_MAX_BYTES, INLINE_DATA_MAX_BYTES
from gkfs.metadentry import Metadentry
from gkfs.operations import HELLO, SHUTDOWN, SYNC_CHUNKS, SYNC_METADATA, TABLE, Operation

_NUMBERS: Final = (
    *(0, 1, 2, 3, 7, -1, 511, 4096, 0o644, 0o100644, 0o40755, 0o120777, INLINE_DATA_MAX_BYTES + 1),
    *(CHUNK_SIZE_BYTES - 1, CHUNK_SIZE_BYTES, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32),
    *(FILE_SIZE_MAX_BYTES, FILE_SIZE_MAX_BYTES + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63)),
)
_NAMES: Final = (b"a", b"b", b"c", b"d1", b"x" * 255, b"x" * 256, b".", b"..", b"", b"\0", b"\xff", "ä".encode())
_PATHS: Final = (
    *(b"", b"/", b"//", b"/..", b"/a/../b", b"a", b"/a\0b", b"/" + b"y" * 4095, b"/y" * 4097, b"\x09" + b"0" * 16),
    *(b"\x091234567890abcdef", b"\x09", b"\x00", b"\x03intent", b"\x07" + bytes(17), b"/a", b"/d1", b"/d1/a"),
)
_TEXTS: Final = (
    "",
    "lock",
    "copy",
    "drop",
    "undo",
    "client",
    "peer",
    "x" * 1000,
    "\ud800\n".encode(errors="replace").decode(),
)
_RARE: Final = (SYNC_METADATA, SYNC_CHUNKS)  # a disk that syncs is all that would be measured


class Frames:
    """Frames of one seed. *role*: only what may be asked for in it; "": everything."""

    def __init__(self, random_: random.Random, role: str = "") -> None:
        self._random = random_
        self._operations = [
            row for row in TABLE.values() if row not in (HELLO, SHUTDOWN) and (not role or row.role in ("", role))
        ]

    def request(self, seq: int) -> bytes:
        """A request with fields of the right types."""
        while (operation := self._random.choice(self._operations)) in _RARE and self._random.random() < 0.95:
            pass
        return _joined(wire.encode_request(operation, seq, self._fields(operation, operation.request)))

    def reply(self, operation: Operation[Any, Any], seq: int) -> bytes:
        """A reply with fields of the right types, or an error."""
        if self._random.random() < 0.2:
            number = self._random.choice((1, 2, 5, 17, 110, 133, 134, 512, 4095, 65535))
            return _joined(wire.encode_error(operation.code, seq, number, "text"))
        return _joined(wire.encode_reply(operation, seq, self._fields(operation, operation.reply)))

    def mutated(self, frame: bytes) -> bytes:
        """*frame* with some bytes changed; never the one that ends a daemon by right."""
        data = bytearray(frame)
        for _ in range(self._random.choice((1, 1, 1, 2, 3, 8))):
            self._mutate(data)
        if len(data) > _CODE and data[_CODE] == SHUTDOWN.code:
            data[_CODE] = 0
        return bytes(data)

    def noise(self) -> bytes:
        """Bytes that are nothing."""
        return self._random.randbytes(self._random.choice((1, 19, 20, 21, 64, 1000)))

    def _mutate(self, data: bytearray) -> None:
        choose = self._random
        if not data:
            data += choose.randbytes(20)
            return
        at = choose.randrange(len(data))
        match choose.randrange(7):
            case 0:
                data[at] ^= 1 << choose.randrange(8)
            case 1:
                data[at] = choose.choice((0, 1, 0x7F, 0x80, 0xC1, 0xDC, 0xDD, 0xDF, 0xFF))
            case 2:
                del data[at : at + choose.choice((1, 2, 4, 16))]
            case 3:
                data[at:at] = choose.randbytes(choose.choice((1, 2, 4, 16)))
            case 4:
                data[at:at] = data[at : at + choose.choice((4, 20, 100))]
            case 5:
                end = choose.randrange(8)
                data[end : end + 1] = choose.randbytes(1)  # lengths, in the header
            case _:
                data[at : at + 4] = choose.choice(
                    (b"\xff" * 4, bytes(4), b"\xdd\x00\x07\xe0", b"\x00\x00\x08\x00")
                )

    # --- values

    def _fields(self, operation: Operation[Any, Any], kind: type[tuple[Any, ...]]) -> Any:
        hints = get_type_hints(kind)
        bulk = operation.bulk_request if kind is operation.request else operation.bulk_reply
        values = [self._value(name, hint) for name, hint in hints.items()]
        if bulk:
            values[-1] = self._data()
        return kind(*values)

    def _value(self, name: str, hint: Any) -> Any:
        if getattr(hint, "__origin__", None) is list:
            count = self._random.choice((0, 1, 1, 2, 3, 17))
            singular = name.removesuffix("s")
            return [self._value(singular, get_args(hint)[0]) for _ in range(count)]
        if hint is bool:
            return self._random.random() < 0.5
        if hint is int:
            return self._number(name)
        if hint is str:
            return self._random.choice(_TEXTS)
        if get_args(hint) and type(None) in get_args(hint) and self._random.random() < 0.3:
            return None
        return self._bytes(name)

    def _number(self, name: str) -> int:
        if self._random.random() < 0.4:
            return self._random.choice(_NUMBERS)
        if "fid" in name:
            return metadentry.make_fid(0, 1, self._random.randrange(1, 64))
        if name.endswith("_ns"):
            return self._random.randrange(1 << 61)
        if name == "mode":
            return self._random.choice((stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO)) | 0o644
        return self._random.randrange(64)

    def _bytes(self, name: str) -> bytes:
        if name in ("path", "source", "target", "key", "first", "end") and self._random.random() < 0.95:
            return self.path()
        if name in ("intent", "client_id"):
            return self._random.randbytes(self._random.choice((16, 16, 16, 0, 1, 17)))
        if name in ("record", "value", "expected"):
            return self.record()
        if name in ("name", "after"):
            return self._random.choice(_NAMES)
        return self._random.randbytes(self._random.choice((0, 1, 16, 100)))

    def path(self) -> bytes:
        """A path of the tree, or of none."""
        if self._random.random() < 0.3:
            return self._random.choice(_PATHS)
        names = [self._random.choice(_NAMES[:4]) for _ in range(self._random.choice((1, 1, 2, 3)))]
        return b"/" + b"/".join(names)

    def record(self) -> bytes:
        """A metadata record, or nearly one."""
        mode = self._random.choice((stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)) | 0o600
        target = b"t" if stat.S_ISLNK(mode) else b""
        fid = self._random.randrange(1, 1 << 50)
        entry = Metadentry.new(mode=mode, uid=0, gid=0, fid=fid, now_ns=1, target=target)
        record = metadentry.encode(entry)
        return record if self._random.random() < 0.7 else self.mutated(record)

    def _data(self) -> bytes:
        size = self._random.choice((0, 1, 100, 100, 5000, INLINE_DATA_MAX_BYTES, INLINE_DATA_MAX_BYTES + 1))
        if self._random.random() < 0.01:
            size = self._random.choice((1 << 15, (1 << 15) + 1, CHUNK_SIZE_BYTES - 1, CHUNK_SIZE_BYTES))
        return bytes(size)


_CODE: Final = 16  # where the operation is in a header


def _joined(pieces: list[Any]) -> bytes:
    return b"".join(pieces)
