"""What leader and members of a gang (`gkfs.gang`) say to each other: messages, and the proofs that come before."""

import hashlib
import hmac
import struct
from typing import Any, Final

from gkfs.limits import GANG_MESSAGE_MAX_BYTES

Message = dict[str, Any]

LENGTH: Final = struct.Struct("<I")
RANK: Final = struct.Struct("<I")


class GangEnded(Exception):
    """The other side is gone, or does not speak as it should."""


def proof(key: bytes, role: bytes, rank: int, challenge: bytes, binding: bytes) -> bytes:
    """What who knows the key can say: in *role* b"member" or b"leader"; *binding*: see `gkfs.tls`."""
    return hmac.digest(key, role + RANK.pack(rank) + challenge + binding, hashlib.sha256)


def encode(message: Message) -> bytes:
    """The bytes of *message*. Raises ValueError when they are too many."""
    import msgpack

    body: bytes = msgpack.packb(message)
    if len(body) > GANG_MESSAGE_MAX_BYTES:
        raise ValueError(f"message of {len(body)} bytes, at most {GANG_MESSAGE_MAX_BYTES} are possible")
    return LENGTH.pack(len(body)) + body


class Decoder:
    """Bytes in, messages out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that *data* completes. Raises GangEnded on what is none."""
        self._buffer += data
        messages = []
        start = 0
        while len(self._buffer) - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer, start)
            if length > GANG_MESSAGE_MAX_BYTES:
                raise GangEnded(f"announces a message of {length} bytes")
            end = start + LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(self._decoded(self._buffer[start + LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return messages

    def _decoded(self, body: bytearray) -> Message:
        import msgpack

        try:
            message = msgpack.unpackb(body)
        except Exception as error:  # of several unrelated types; to show what they hold may take too much
            raise GangEnded(f"sends what is no message: {type(error).__name__}") from None
        if not isinstance(message, dict):
            raise GangEnded("sends what is no message")
        return message
