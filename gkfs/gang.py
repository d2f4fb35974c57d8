"""A gang: processes on all nodes of a job, and the one that started them and tells them what to do.

The leader listens on a TCP port; it hands address and a secret key to its members through their environment
(`GANG_VARIABLE`), whatever starts them. Members call back, both sides prove that they know the key (HMAC-SHA256
over the other's random challenge) before anything else is read, and then exchange messages: dictionaries in
msgpack, each after its length (u32). A connection that ends tells the other side that this process is gone; TCP
keepalive tells it of a host that is. Where the file system speaks TLS so do they, from the first byte on, and the
proofs are over the hash of the leader's certificate, too.

Leader and member wait with select, without an event loop of their own, so that both can wait for signals and
child processes, too. Who has the same environment may join as a *visitor*, with a rank from VISITOR_RANK on: that
is how `gkfs stop` speaks to the leader from any node.
"""

import contextlib
import errno
import hmac
import os
import secrets
import select
import selectors
import socket
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, Self, cast

from gkfs import addresses
from gkfs.errors import ExitStatus, GkfsError
from gkfs.gang_wire import RANK, Decoder, GangEnded, Message, encode, proof
from gkfs.keyfile import Key
from gkfs.limits import (
    CONNECT_TIMEOUT_S,
    HANDSHAKE_TIMEOUT_S,
    HANDSHAKES_MAX,
    KEEPALIVE_IDLE_S,
    KEEPALIVE_PROBES,
    SEND_STALL_S,
)
from gkfs.strangers import Strangers

if TYPE_CHECKING:
    from gkfs.tls import Certificate, TlsSocket  # here and below: not for `gkfs --help`

GANG_VARIABLE: Final = "GKFS_GANG"  # KEY HOST:PORT,HOST:PORT... or KEY tls HOST:PORT,...
VISITOR_RANK: Final = 1 << 31

_CHALLENGE_BYTES: Final = 32
_PROOF_BYTES: Final = 32
_HELLO_BYTES: Final = RANK.size + _CHALLENGE_BYTES + _PROOF_BYTES
_READ_BYTES: Final = 1 << 16  # more than a record of TLS: nothing of one is left that select does not tell of
_NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENFILE)


class Event(NamedTuple):
    """What a member sent; *message* is None when its connection has ended."""

    rank: int
    message: Message | None


def derived_key(environ: Mapping[str, str], purpose: str) -> Key:
    """A key that leader and members of the gang that *environ* names share, and nobody else."""
    return Key(bytes.fromhex(environ[GANG_VARIABLE].partition(" ")[0])).derived(purpose.encode())


class _Link:
    """The leader's end of one connection."""

    def __init__(self, connection: "socket.socket | TlsSocket") -> None:
        self.connection = connection
        self.rank = -1  # not proved yet
        self.begins_tls = False
        self.binding = b""
        self.deadline_s = time.monotonic() + HANDSHAKE_TIMEOUT_S
        self.challenge = secrets.token_bytes(_CHALLENGE_BYTES)
        self.output: deque[memoryview] = deque([memoryview(self.challenge)])
        self.decoder = Decoder()
        self.hello = b""


class Gang:
    """The leader's side: messages of all members come out of `poll`, `send` queues without blocking."""

    def __init__(self, size: int, only_this_host: bool = False, *, tls: bool = False) -> None:
        """Listen, for members with ranks from 0 to *size* - 1. Raises GkfsError: ADDRESS; with *tls* ACCESS."""
        self.size = size
        self._key = secrets.token_bytes(32)
        self._certificate = _certificate() if tls else None
        try:
            host = "127.0.0.1" if only_this_host else ""
            self._listener = socket.create_server((host, 0), backlog=min(4096, size + 16))
        except OSError as error:
            raise GkfsError(f"cannot listen for the nodes: {error.strerror}", ExitStatus.ADDRESS) from None
        self._listener.setblocking(False)
        hosts = ["127.0.0.1"] if only_this_host else addresses.of_this_host()
        port = self._listener.getsockname()[1]
        self.environment = {
            GANG_VARIABLE: f"{self._key.hex()} {'tls ' * tls}{','.join(f'{host}:{port}' for host in hosts)}",
        }
        self._selector = selectors.EpollSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._links: dict[int, _Link] = {}
        # All members may call at once, and others, too.
        self._strangers: Strangers[_Link] = Strangers(size + HANDSHAKES_MAX)
        self._events: list[Event] = []

    @property
    def ranks(self) -> list[int]:
        """The members that are connected."""
        return sorted(rank for rank in self._links if rank < VISITOR_RANK)

    def fileno(self) -> int:
        """Readable when `poll` has something to do."""
        return self._selector.fileno()

    def poll(self, timeout_s: float, *descriptors: int) -> list[Event]:
        """What came since the last call, in order; waits for it, for a readable *descriptor*, or for the time."""
        self._turn(0.0 if self._events else timeout_s, *descriptors)
        events, self._events = self._events, []
        return events

    def _turn(self, timeout_s: float, *descriptors: int) -> None:
        select.select([self.fileno(), *descriptors], [], [], max(0.0, timeout_s))
        for key, mask in self._selector.select(0):
            link = key.data
            if link is None:
                self._accept()
            elif link.connection.fileno() >= 0:  # else it had to go for another just now
                self._serve(link, mask)
        now_s = time.monotonic()
        for link in [link for link in self._strangers.all if link.deadline_s < now_s]:
            self._drop(link)

    def send(self, rank: int, message: Message) -> None:
        """Queue *message* for one member; one that is gone gets nothing."""
        link = self._links.get(rank)
        if link is not None:
            self._queue(link, encode(message))

    def broadcast(self, message: Message) -> None:
        """Queue *message* for all members, not for visitors."""
        data = encode(message)
        for rank in self.ranks:
            self._queue(self._links[rank], data)

    def flush(self, timeout_s: float) -> None:
        """Wait until all that is queued has been handed over to the network, at most *timeout_s*."""
        deadline_s = time.monotonic() + timeout_s
        while any(link.output for link in self._links.values()) and time.monotonic() < deadline_s:
            self._turn(0.05)

    def close(self) -> None:
        """End all connections; members see that the leader is gone."""
        for link in [*self._links.values(), *self._strangers.all]:
            link.connection.close()
            self._strangers.discard(link)
        self._links.clear()
        self._selector.close()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError as error:
                if error.errno in _NO_DESCRIPTOR and len(self._strangers):
                    self._drop(self._strangers.take_one())
                    continue
                return  # nobody more, or gone again
            if self._strangers.are_too_many:
                self._drop(self._strangers.take_one())
            with contextlib.suppress(OSError):  # gone already
                self._welcome(connection, str(address[0]))

    def _welcome(self, connection: socket.socket, address: str) -> None:
        _prepare(connection)
        if self._certificate is None:
            link = _Link(connection)
        else:
            in_tls = self._certificate.answer(connection)
            link = _Link(in_tls)
            link.binding = in_tls.binding
            link.begins_tls = True
        self._strangers.add(link, address)
        self._selector.register(link.connection, selectors.EVENT_READ | selectors.EVENT_WRITE, link)

    def _queue(self, link: _Link, data: bytes) -> None:
        if not link.output:
            self._selector.modify(link.connection, selectors.EVENT_READ | selectors.EVENT_WRITE, link)
        link.output.append(memoryview(data))

    def _serve(self, link: _Link, mask: int) -> None:
        try:
            if link.begins_tls:
                self._begin_tls(link)
                return
            if mask & selectors.EVENT_WRITE:
                self._write(link)
            if mask & selectors.EVENT_READ:
                self._read(link)
        except (OSError, GangEnded):
            self._drop(link)

    def _begin_tls(self, link: _Link) -> None:
        wants = cast("TlsSocket", link.connection).step()
        link.begins_tls = bool(wants)
        only_read = selectors.EVENT_READ
        self._selector.modify(
            link.connection, only_read if wants == "read" else only_read | selectors.EVENT_WRITE, link
        )

    def _write(self, link: _Link) -> None:
        with contextlib.suppress(BlockingIOError):
            while link.output:
                count = link.connection.send(link.output[0])
                rest = link.output.popleft()[count:]
                if rest:
                    link.output.appendleft(rest)
        if not link.output:
            self._selector.modify(link.connection, selectors.EVENT_READ, link)

    def _read(self, link: _Link) -> None:
        try:
            data = link.connection.recv(_READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise GangEnded("is gone")
        if link.rank < 0:
            link.hello += data
            if len(link.hello) < _HELLO_BYTES:
                return
            self._admit(link)
            data = link.hello[_HELLO_BYTES:]
        self._events += [Event(link.rank, message) for message in link.decoder.feed(data)]

    def _admit(self, link: _Link) -> None:
        (rank,) = RANK.unpack_from(link.hello)
        challenge = link.hello[RANK.size : RANK.size + _CHALLENGE_BYTES]
        given = link.hello[RANK.size + _CHALLENGE_BYTES : _HELLO_BYTES]
        if not hmac.compare_digest(given, proof(self._key, b"member", rank, link.challenge, link.binding)):
            raise GangEnded("does not know the key")
        if rank in self._links or self.size <= rank < VISITOR_RANK:
            raise GangEnded(f"has rank {rank}, which is none or taken")
        link.rank = rank
        self._strangers.discard(link)
        self._links[rank] = link
        self._queue(link, proof(self._key, b"leader", rank, challenge, link.binding))

    def _drop(self, link: _Link) -> None:
        self._selector.unregister(link.connection)
        link.connection.close()
        self._strangers.discard(link)
        if link.rank >= 0:
            del self._links[link.rank]
            self._events.append(Event(link.rank, None))


class Member:
    """A member's side: one connection to the leader."""

    def __init__(self, connection: socket.socket, rank: int) -> None:
        self.rank = rank
        self._connection = connection
        self._decoder = Decoder()
        self._arrived: deque[Message] = deque()

    @classmethod
    def join(cls, rank: int, environ: Mapping[str, str] = os.environ) -> Self:
        """Call the leader that *environ* names. Raises GkfsError (UNREACHABLE) when it cannot be had."""
        key, _, rest = environ.get(GANG_VARIABLE, "").partition(" ")
        kind, _, places = rest.rpartition(" ")
        if not places:
            raise GkfsError(f"{GANG_VARIABLE} is not set: this is started by other verbs only", ExitStatus.USAGE)
        reasons = []
        for place in places.split(","):
            host, _, port = place.rpartition(":")
            try:
                connection = socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S)
            except OSError as error:
                reasons.append(f"{place}: {error.strerror or error}")
                continue
            try:
                if kind == "tls":
                    connection = _call_in_tls(connection)
                _prove(connection, bytes.fromhex(key), rank)
                return cls(connection, rank)
            except (OSError, GangEnded) as error:
                connection.close()
                reasons.append(f"{place}: {error}")
        raise GkfsError(
            f"the process that started this one cannot be reached: {'; '.join(reasons)}", ExitStatus.UNREACHABLE
        )

    @classmethod
    def visit(cls, environ: Mapping[str, str]) -> Self:
        """Join as somebody who only asks something. Raises GkfsError (UNREACHABLE)."""
        return cls.join(VISITOR_RANK + secrets.randbelow(VISITOR_RANK), environ)

    def fileno(self) -> int:
        """Readable when `take` has something to do."""
        return self._connection.fileno()

    def send(self, message: Message) -> None:
        """Send, waiting at most SEND_STALL_S for the leader to take it. Raises GangEnded."""
        try:
            self._connection.settimeout(SEND_STALL_S)
            self._connection.sendall(encode(message))
        except OSError as error:
            raise GangEnded(f"the leader is gone: {error}") from None

    def receive(self, timeout_s: float) -> Message | None:
        """The next message; None when there is none in time. Raises GangEnded."""
        deadline_s = time.monotonic() + timeout_s
        while not self._arrived:
            wait_s = deadline_s - time.monotonic()
            if not select.select([self._connection], [], [], max(0.0, wait_s))[0]:
                return None
            self._read()
        return self._arrived.popleft()

    def take(self) -> list[Message]:
        """What has arrived, without waiting. Raises GangEnded."""
        if select.select([self._connection], [], [], 0)[0]:
            self._read()
        messages = list(self._arrived)
        self._arrived.clear()
        return messages

    def close(self) -> None:
        """Leave."""
        self._connection.close()

    def _read(self) -> None:
        self._connection.setblocking(False)
        try:
            data = self._connection.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise GangEnded(f"the leader is gone: {error}") from None
        if not data:
            raise GangEnded("the leader is gone")
        self._arrived += self._decoder.feed(data)


def _certificate() -> "Certificate":
    from gkfs.tls import Certificate

    return Certificate()


def _call_in_tls(connection: socket.socket) -> "TlsSocket":
    """Begin TLS. Raises OSError."""
    from gkfs import tls

    connection.settimeout(HANDSHAKE_TIMEOUT_S)
    called = tls.call(connection)
    try:
        called.do_handshake()
    except BaseException:
        called.close()
        raise
    return called


def _prove(connection: socket.socket, key: bytes, rank: int) -> None:
    """A member's handshake. Raises OSError or GangEnded."""
    connection.settimeout(HANDSHAKE_TIMEOUT_S)
    binding: bytes = getattr(connection, "binding", b"")
    challenge = _receive_exactly(connection, _CHALLENGE_BYTES)
    own = secrets.token_bytes(_CHALLENGE_BYTES)
    connection.sendall(RANK.pack(rank) + own + proof(key, b"member", rank, challenge, binding))
    if not hmac.compare_digest(
        _receive_exactly(connection, _PROOF_BYTES), proof(key, b"leader", rank, own, binding)
    ):
        raise GangEnded("somebody else answers")
    _prepare(connection)


def _receive_exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise GangEnded("closed the connection during the handshake")
        data += piece
    return data


def _prepare(connection: socket.socket) -> None:
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
