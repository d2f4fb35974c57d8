"""The gate: nobody gets past it who does not prove to have the key of the file system (`gkfs.handshake`).

Until then a connection costs its socket and a task, no buffer; it has HANDSHAKE_TIMEOUT_S, and all of them
together are bounded in number. Who is refused is named in the log, in a bounded number of lines.
"""

import contextlib
import errno
import hmac
import logging
import os
import socket
import struct
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import trio

from gkfs import __version__, handshake, wire
from gkfs.errors import ProtocolError
from gkfs.handshake import Greeting
from gkfs.keyfile import PROOF_BYTES, Key
from gkfs.limits import (
    HANDSHAKE_TIMEOUT_S,
    HANDSHAKES_MAX,
    PROTOCOL_VERSION,
    REFUSALS_ADDRESSES,
    REFUSALS_LOGGED,
    REFUSALS_LOGGED_OF_ONE,
    REFUSALS_WINDOW_S,
)
from gkfs.operations import HELLO
from gkfs.strangers import Strangers
from gkfs.tls import TlsSocket, is_tls
from gkfs.transport import begin_tls, receive_exactly

_log = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
_DISCARDED_BYTES = 4096


@dataclass(frozen=True)
class Identity:
    """What the daemon says of itself in the handshake."""

    fsid: str
    daemon_index: int
    daemon_count: int
    boot_epoch: int
    power_epoch: int


class Caller(NamedTuple):
    """Who has connected: *address* is the host's, or the user's on this machine; *name* says more, for logs."""

    address: str
    name: str

    @classmethod
    def of_tcp(cls, peer: tuple[str, int]) -> "Caller":
        """Of what accept() says of a TCP connection."""
        return cls(peer[0], f"{peer[0]}:{peer[1]}")

    @classmethod
    def of_user(cls, uid: int, pid: int) -> "Caller":
        """Of a process on this machine."""
        return cls(f"uid {uid}", f"process {pid} of uid {uid}")


class NotAdmitted(Exception):
    """The caller is refused, and it has been noted."""


class Refusals:
    """The lines in the log about who was refused."""

    def __init__(self) -> None:
        self._begun_s = float("-inf")
        self._of_each: Counter[str] = Counter()
        self._lines = 0
        self._unsaid: Counter[str] = Counter()

    def note(self, caller: Caller, reason: str) -> None:
        """*caller* was refused for *reason*, which holds nothing that the caller has sent."""
        if trio.current_time() >= self._begun_s + REFUSALS_WINDOW_S:
            self.tell_rest()
            self._begun_s = trio.current_time()
        known = caller.address in self._of_each or len(self._of_each) < REFUSALS_ADDRESSES
        address = caller.address if known else "others"
        self._of_each[address] += 1
        if self._of_each[address] <= REFUSALS_LOGGED_OF_ONE and self._lines < REFUSALS_LOGGED:
            self._lines += 1
            _log.warning("refused %s: %s", caller.name, reason)
        else:
            self._unsaid[address] += 1

    def tell_rest(self) -> None:
        """Say how many there were beyond those that had a line, and begin anew."""
        if self._unsaid:
            (worst, count), *_ = self._unsaid.most_common(1)
            text = "refused %d more callers, from %d addresses, %d of them from %s"
            _log.warning(text, self._unsaid.total(), len(self._unsaid), count, worst)
        self._lines = 0
        self._of_each.clear()
        self._unsaid.clear()


class Gate:
    """Admits callers of one daemon."""

    def __init__(self, identity: Identity, key: Key, waiting_max: int = HANDSHAKES_MAX) -> None:
        """*waiting_max*: of connections that have not proved yet that they know the key."""
        self._identity = identity
        self._key = key
        self._refusals = Refusals()
        self._waiting: Strangers[trio.CancelScope] = Strangers(min(waiting_max, HANDSHAKES_MAX))

    @property
    def waiting(self) -> int:
        """How many connections have not proved yet that they know the key."""
        return len(self._waiting)

    def caller(self, accepted: socket.socket, peer: tuple[str, int]) -> Caller:
        """Who is at the other end. Raises NotAdmitted on a Unix socket of another user; root is let in."""
        if accepted.family != socket.AF_UNIX:
            return Caller.of_tcp(peer)
        credentials = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(credentials)
        caller = Caller.of_user(uid, pid)
        if uid not in (0, os.geteuid()):
            self.refuse(caller, "is another user")
            raise NotAdmitted
        return caller

    def refuse(self, caller: Caller, reason: str) -> None:
        """Note that *caller* is refused."""
        self._refusals.note(caller, reason)

    async def report(self) -> None:
        """Log what is only counted at first; until cancelled."""
        try:
            while True:
                await trio.sleep(REFUSALS_WINDOW_S)
                self._refusals.tell_rest()
        finally:
            self._refusals.tell_rest()

    async def admit(self, connection: socket.socket, caller: Caller) -> Greeting:
        """The handshake, up to the caller's proof. Raises NotAdmitted."""
        if self._waiting.are_too_many:
            self._waiting.take_one().cancel()
        scope = trio.CancelScope(deadline=trio.current_time() + HANDSHAKE_TIMEOUT_S)
        self._waiting.add(scope, caller.address)
        try:
            with scope:
                return await self._shake_hands(connection)
        except (ProtocolError, OSError) as error:
            self.refuse(caller, error.strerror or "broke" if isinstance(error, OSError) else str(error))
            raise NotAdmitted from None
        finally:
            self._waiting.discard(scope)
        late = trio.current_time() >= scope.deadline
        reason = f"no proof within {HANDSHAKE_TIMEOUT_S:.0f} s" if late else "more connections than we wait for"
        self.refuse(caller, reason)
        raise NotAdmitted

    async def _shake_hands(self, connection: socket.socket) -> Greeting:
        binding = b""
        if isinstance(connection, TlsSocket):
            await _begin_tls(connection)
            binding = connection.binding
        head = await receive_exactly(connection, handshake.HEAD_BYTES)
        if is_tls(head) and not binding:
            _send_last(connection, handshake.refusal(errno.EPROTONOSUPPORT))
            raise ProtocolError("speaks TLS, which this file system was started without")
        version = handshake.version_of(head)
        if version is None:
            await _answer_older(connection, head)
        if version != PROTOCOL_VERSION:
            _send_last(connection, handshake.refusal(errno.EPROTO))
            raise ProtocolError(f"speaks protocol {version}, this daemon {PROTOCOL_VERSION}")
        data = head + await receive_exactly(connection, handshake.GREETING_BYTES - len(head))
        greeting = handshake.decode_greeting(data)
        mine = self._identity
        if (greeting.fsid, greeting.daemon_index) != (mine.fsid, mine.daemon_index):
            # Not which one we are: who does not know shall not learn it here.
            _send_last(connection, handshake.refusal(errno.ENXIO))
            raise ProtocolError("calls another daemon, or one of another file system")
        answer, expected = handshake.answer(self._key, data, binding)
        connection.send(answer)  # short, on an empty socket: it is taken whole
        if not hmac.compare_digest(await receive_exactly(connection, PROOF_BYTES), expected):
            raise ProtocolError("does not have the key")
        return greeting


async def _begin_tls(connection: TlsSocket) -> None:
    """Raises ProtocolError when the caller does not speak TLS: no less is asked for."""
    while True:
        try:
            is_called_in_tls = connection.is_called_in_tls()
            break
        except BlockingIOError:
            await trio.lowlevel.wait_readable(connection.fileno())
    if not is_called_in_tls:
        connection.send_plain(handshake.refusal(errno.EPROTONOSUPPORT))
        raise ProtocolError("does not speak TLS, with which this file system was started")
    await begin_tls(connection)


async def _answer_older(connection: socket.socket, head: bytes) -> None:
    """Raise ProtocolError; a gkfs below 5, which sent a HELLO, is told our version as it expects to be."""
    head += await receive_exactly(connection, wire.HEADER_BYTES - len(head))
    _, bulk_bytes, _, code, kind, _ = wire.HEADER.unpack(head)
    if code != HELLO.code or kind != wire.REQUEST or bulk_bytes:
        raise ProtocolError("does not speak gkfs")
    text = (
        f"this daemon speaks protocol {PROTOCOL_VERSION} (gkfs {__version__}): use the same version on all nodes"
    )
    _send_last(connection, b"".join(wire.encode_error(HELLO.code, 0, errno.EPROTO, text)))
    raise ProtocolError(f"speaks a protocol below 5, this daemon {PROTOCOL_VERSION}")


def _send_last(connection: socket.socket, data: bytes) -> None:
    """Send before closing. What has not been read would have the kernel throw *data* away."""
    connection.send(data)
    with contextlib.suppress(BlockingIOError):
        connection.recv(_DISCARDED_BYTES)
