"""The handshake of a connection, without I/O: caller and daemon prove to each other that they have the key.

    caller -> daemon   GREETING   "gkfs" | version u16 | role u8 | 0 | daemon index u32 | fsid 16 | client id 16 |
                                  nonce 32
    daemon -> caller   ANSWER     "gkfs" | version u16 | errno u16 | nonce 32 | the daemon's proof 32
    caller -> daemon   PROOF      the caller's proof 32

Numbers are little-endian. A proof is the HMAC-SHA256 under the key of a label, the greeting, and the answer up to
the proof. So it has the nonces of both sides, and holds for this one connection only; it names version, role,
client, file system and daemon, so that none of them can be exchanged for another; and the labels differ, so that
nobody gets his own proof accepted by sending it back. The daemon proves first: a caller says nothing to who has
not the key.

Within TLS (`gkfs.tls`) a proof is over the hash of the certificate that its side has seen, too, 32 bytes behind
the rest. So it holds for a connection without TLS, or with another certificate, as little as for another caller.

The first 8 bytes of greeting and answer are the same in every version from 5 on; those of a refusal are all there
are of it. docs/wire_format.md has worked bytes.
"""

import errno
import hmac
import os
import struct
from typing import Final, NamedTuple

from gkfs.errors import ExitStatus, GkfsError, ProtocolError
from gkfs.keyfile import PROOF_BYTES, Access, Key
from gkfs.limits import PROTOCOL_VERSION

ROLES: Final = ("client", "peer", "control", "copy")
CLIENT_ID_BYTES: Final = 16
_NONCE_BYTES: Final = 32
_MAGIC: Final = b"gkfs"
_GREETING: Final = struct.Struct(f"<4sHBBI16s{CLIENT_ID_BYTES}s{_NONCE_BYTES}s")
_ANSWER_HEAD: Final = struct.Struct("<4sHH")
_VERSION: Final = struct.Struct("<4sH")

HEAD_BYTES: Final = 8
GREETING_BYTES: Final = _GREETING.size
ANSWER_BYTES: Final = _ANSWER_HEAD.size + _NONCE_BYTES + PROOF_BYTES

_BY_DAEMON: Final = b"gkfs: proof of the daemon\0"
_BY_CALLER: Final = b"gkfs: proof of the caller\0"


class Greeting(NamedTuple):
    """Who calls, and whom."""

    version: int
    role: str
    daemon_index: int
    fsid: str
    client_id: bytes


def version_of(head: bytes) -> int | None:
    """The protocol version that the first HEAD_BYTES of a greeting or answer are of; None: not of gkfs >= 5."""
    magic, version = _VERSION.unpack_from(head)
    return version if magic == _MAGIC else None


def decode_greeting(data: bytes) -> Greeting:
    """A greeting of this version. Raises ProtocolError."""
    magic, version, role, zero, index, fsid, client_id, _ = _GREETING.unpack(data)
    if magic != _MAGIC or version != PROTOCOL_VERSION or zero or not 0 < role <= len(ROLES):
        raise ProtocolError("no greeting")
    return Greeting(version, ROLES[role - 1], index, fsid.hex(), client_id)


def refusal(number: int) -> bytes:
    """An answer that there will be no connection: errno *number*, and our version."""
    return _ANSWER_HEAD.pack(_MAGIC, PROTOCOL_VERSION, number)


def answer(key: Key, greeting: bytes, binding: bytes = b"") -> tuple[bytes, bytes]:
    """What the daemon says to *greeting*, and the proof that the caller has to give then.

    *binding*, here and in `Call.prove`: the hash of the certificate, in TLS.
    """
    text = greeting + refusal(0) + os.urandom(_NONCE_BYTES)
    proofs = [key.proof(label + text + binding) for label in (_BY_DAEMON, _BY_CALLER)]
    return text[GREETING_BYTES:] + proofs[0], proofs[1]


class Call:
    """The caller's side: send `greeting`, read HEAD_BYTES, `check_head`, read the rest, send what `prove` says."""

    def __init__(self, access: Access, daemon_index: int, client_id: bytes, role: str, callee: str) -> None:
        """*callee* is what messages call the daemon."""
        self._access = access
        self.callee = callee
        self._daemon_index = daemon_index
        self.greeting = _GREETING.pack(
            _MAGIC,
            PROTOCOL_VERSION,
            ROLES.index(role) + 1,
            0,
            daemon_index,
            bytes.fromhex(access.fsid),
            client_id,
            os.urandom(_NONCE_BYTES),
        )

    def check_head(self, head: bytes) -> None:
        """Raise GkfsError when it is a refusal or of another version, ProtocolError when it is none of ours."""
        version = version_of(head)
        if version is None:
            raise ProtocolError(f"answered {head.hex()}")
        number: int = _ANSWER_HEAD.unpack(head)[2]
        if version != PROTOCOL_VERSION or number == errno.EPROTO:
            raise GkfsError(
                f"{self.callee} speaks protocol {version}, this gkfs protocol {PROTOCOL_VERSION}: "
                f"use the same version on all nodes",
                ExitStatus.VERSION,
            )
        if number == errno.ENXIO:
            raise GkfsError(
                f"{self.callee} is another daemon, or of another file system, than daemon "
                f"{self._daemon_index} of {self._access.fsid} that the hostfile names",
                ExitStatus.HOSTFILE,
            )
        if number == errno.EPROTONOSUPPORT:
            raise GkfsError(
                f"{self.callee} speaks TLS only, and our hostfile does not say so: it is of another start",
                ExitStatus.ACCESS,
            )
        if number:
            raise ProtocolError(f"refused the connection with errno {number}")

    def prove(self, whole: bytes, binding: bytes = b"") -> bytes:
        """Our proof for the *whole* answer. Raises GkfsError (ACCESS) unless the daemon has proved its own."""
        text = self.greeting + whole[: ANSWER_BYTES - PROOF_BYTES] + binding
        if not hmac.compare_digest(whole[-PROOF_BYTES:], self._access.key.proof(_BY_DAEMON + text)):
            raise GkfsError(
                f"{self.callee} has another key for file system {self._access.fsid} than we have: "
                f"it was started anew, or somebody else answers there",
                ExitStatus.ACCESS,
            )
        return self._access.key.proof(_BY_CALLER + text)
