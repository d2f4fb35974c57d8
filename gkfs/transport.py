"""Sockets: listening, connecting, the handshake. The only I/O of the core.

Addresses are URIs: ``tcp://HOST:PORT`` and ``unix:///PATH`` (percent-encoded). A caller takes the Unix socket
when it is there and answers as the right daemon, else TCP.
"""

import contextlib
import errno
import os
import re
import socket
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import trio

from gkfs import __version__, tls, wire
from gkfs.errors import ExitStatus, GkfsError, ProtocolError
from gkfs.handshake import ANSWER_BYTES, HEAD_BYTES, Call
from gkfs.hostfile import NO_ADDRESS, DaemonAddress
from gkfs.keyfile import Access
from gkfs.limits import (
    CONNECT_TIMEOUT_S,
    HANDSHAKE_TIMEOUT_S,
    HELLO_BODY_MAX_BYTES,
    PEER_KEEPALIVE_PROBES,
    PEER_KEEPALIVE_S,
    PEER_UNCONFIRMED_S,
)
from gkfs.messages import HelloReply, HelloRequest
from gkfs.operations import HELLO
from gkfs.tls import TlsSocket

_SUN_PATH_MAX_BYTES = 107
_BACKLOG = 512
_PORT = re.compile(r"[0-9]{1,5}")
_PORT_MAX = 65535
_REFUSAL_MAX = 1000  # characters of why a daemon refuses


def unix_uri(path: Path) -> str:
    """The URI of a Unix socket."""
    return "unix://" + quote(os.fsencode(path.absolute()))


def unix_path(uri: str) -> Path:
    """The inverse of `unix_uri`."""
    return Path(os.fsdecode(unquote_to_bytes(uri.removeprefix("unix://"))))


def tcp_address(uri: str) -> tuple[str, int]:
    """(host, port) of ``tcp://HOST:PORT``; IPv6 hosts stand in brackets. Raises GkfsError."""
    host, colon, port = uri.removeprefix("tcp://").rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (uri.startswith("tcp://") and colon and host and _PORT.fullmatch(port) and int(port) <= _PORT_MAX):
        raise GkfsError(f"{uri!r:.200} is not tcp://HOST:PORT", ExitStatus.ADDRESS)
    return host, int(port)


def listen_tcp(uri: str) -> socket.socket:
    """A non-blocking listening socket; port 0 takes a free one. Raises GkfsError naming address and reason."""
    host, port = tcp_address(uri)
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        # So that a daemon restarted at once gets its old port back.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except (OSError, UnicodeError) as error:  # the latter: of what cannot be a host's name
        if listener is not None:
            listener.close()
        reason = error.strerror if isinstance(error, OSError) else f"{host!r} is not the name of a host"
        raise GkfsError(f"cannot listen on {uri}: {reason}", ExitStatus.ADDRESS) from None
    return listener


def at_port(uri: str, port: int) -> str:
    """The address *uri* with another port. Raises GkfsError."""
    host, _ = tcp_address(uri)
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def at_any_port(uri: str) -> str:
    """The address *uri* with a port that is free. Raises GkfsError."""
    return at_port(uri, 0)


def bound_tcp_uri(listener: socket.socket, host: str) -> str:
    """The URI others reach *listener* at, under the name or address *host*."""
    port = listener.getsockname()[1]
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def listen_unix(path: Path) -> socket.socket:
    """A non-blocking listening Unix socket at *path*, for its owner only; a stale one is replaced.

    The caller must hold the lock of the directory. Raises GkfsError.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        with _short(path) as name:
            listener.bind(name)
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise GkfsError(f"cannot listen on {path}: {error.strerror}", ExitStatus.ADDRESS) from None
    return listener


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for *path* that fits sun_path, valid within the block."""
    if len(os.fsencode(path)) <= _SUN_PATH_MAX_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


async def open_connection(
    address: DaemonAddress, access: Access, client_id: bytes, role: str
) -> tuple[socket.socket, HelloReply]:
    """A connected non-blocking socket after a successful handshake, and what the daemon said of itself.

    By TCP it is a TlsSocket where *access* says so. Raises GkfsError: UNREACHABLE when nothing answers in time,
    VERSION, HOSTFILE when another daemon or file system answers there, or ACCESS when it has another key, or when
    only one of us speaks TLS. Nothing stays open after cancellation or failure.
    """
    reasons: list[str] = []
    for uri in (address.unix, address.tcp):
        if uri == NO_ADDRESS or (uri == address.unix and not _is_socket(uri)):
            continue
        call = Call(access, address.daemon, client_id, role, str(address))
        try:
            return await _open_one(uri, call, in_tls=access.tls and uri == address.tcp)
        except OSError as error:
            reasons.append(error.strerror or str(error))
        except UnicodeError:
            reasons.append("what cannot be the name of a host")
        except trio.TooSlowError:
            reasons.append(f"no answer within {CONNECT_TIMEOUT_S:.0f} s")
        except ProtocolError as error:
            raise GkfsError(f"{address} does not speak gkfs: {error}", ExitStatus.VERSION) from None
    raise GkfsError(f"{address} cannot be reached: {', '.join(reasons) or 'no address'}", ExitStatus.UNREACHABLE)


def _is_socket(uri: str) -> bool:
    try:
        return unix_path(uri).is_socket()
    except (OSError, ValueError):  # in a folder that is closed to us, another node's; or the name of no file
        return False


async def _open_one(uri: str, call: Call, *, in_tls: bool) -> tuple[socket.socket, HelloReply]:
    with trio.fail_after(CONNECT_TIMEOUT_S):
        connection = await _connect(uri)
    try:
        with trio.fail_after(HANDSHAKE_TIMEOUT_S):
            if in_tls:
                connection = tls.call(connection)
                await _call_in_tls(connection, call)
            return connection, await _shake_hands(connection, call)
    except BaseException:
        connection.close()
        raise


async def _connect(uri: str) -> socket.socket:
    if uri.startswith("unix://"):
        connection = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        try:
            with _short(unix_path(uri)) as name:
                await connection.connect(name)
        except BaseException:
            connection.close()
            raise
    else:
        host, port = tcp_address(uri)
        stream = await trio.open_tcp_stream(host, port)
        connection = stream.socket
    plain = socket.socket(fileno=connection.detach())
    plain.setblocking(False)
    if plain.family != socket.AF_UNIX:
        tune(plain)
    return plain


def tune(connection: socket.socket) -> None:
    """Have a TCP connection send at once, and break when the other host has vanished."""
    tcp = socket.IPPROTO_TCP
    connection.setsockopt(tcp, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(tcp, socket.TCP_KEEPIDLE, PEER_KEEPALIVE_S)
    connection.setsockopt(tcp, socket.TCP_KEEPINTVL, PEER_KEEPALIVE_S)
    connection.setsockopt(tcp, socket.TCP_KEEPCNT, PEER_KEEPALIVE_PROBES)
    connection.setsockopt(tcp, socket.TCP_USER_TIMEOUT, PEER_UNCONFIRMED_S * 1000)


async def _call_in_tls(connection: TlsSocket, call: Call) -> None:
    try:
        await begin_tls(connection)
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        raise OSError(errno.ECONNRESET, "closed the connection while TLS began") from None
    except ssl.SSLError as error:
        raise GkfsError(
            f"{call.callee} does not answer in TLS, which the hostfile asks for ({error.reason}): "
            f"it is of another start, or somebody stands between",
            ExitStatus.ACCESS,
        ) from None


async def begin_tls(connection: TlsSocket) -> None:
    """The handshake of TLS, at either end. Raises OSError, ssl.SSLError among them."""
    while wants := connection.step():
        if wants == "read":
            await trio.lowlevel.wait_readable(connection.fileno())
        else:
            await trio.lowlevel.wait_writable(connection.fileno())


async def _shake_hands(connection: socket.socket, call: Call) -> HelloReply:
    connection.send(call.greeting)  # short, as what follows, and on an empty socket: it is taken whole
    head = await receive_exactly(connection, HEAD_BYTES)
    call.check_head(head)
    whole = head + await receive_exactly(connection, ANSWER_BYTES - HEAD_BYTES)
    proof = call.prove(whole, connection.binding if isinstance(connection, TlsSocket) else b"")
    connection.send(b"".join([proof, *wire.encode_request(HELLO, 0, HelloRequest(__version__))]))
    header = await receive_exactly(connection, wire.HEADER_BYTES)
    decoder = wire.Decoder()
    body_bytes, bulk_bytes, _, code, _, _ = wire.HEADER.unpack(header)
    if code != HELLO.code or bulk_bytes or body_bytes > HELLO_BODY_MAX_BYTES:
        raise ProtocolError(f"answered HELLO with {header.hex()}")
    data = header + await receive_exactly(connection, body_bytes)
    decoder.buffer()[: len(data)] = data
    (message,) = decoder.received(len(data))
    return HelloReply(*wire.decode_reply(HELLO, message))


async def receive_exactly(connection: socket.socket, length: int) -> bytes:
    """*length* bytes of a handshake, at either end, without a large buffer. Raises OSError."""
    data = b""
    while len(data) < length:
        try:
            piece = connection.recv(length - len(data))
        except BlockingIOError:
            await trio.lowlevel.wait_readable(connection.fileno())
            continue
        if not piece:
            missing = length - len(data)
            raise OSError(
                errno.ECONNRESET, f"closed the connection {missing} bytes before the end of the handshake"
            )
        data += piece
    return data
