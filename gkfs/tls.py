"""TLS 1.3 for connections over TCP, where the file system was started with `--tls`.

There is no authority whose certificates would be trusted. Each daemon makes itself a certificate when it starts,
whose private key is in no file, and which the caller takes unseen: trust comes from the file system's key. The
proofs of the handshake that follows within TLS (`gkfs.handshake`) are over the certificate's hash, too, so who
stands between, with a certificate of his own, finds that neither side's proof holds for the other's connection.

What is off costs nothing: a `TlsSocket` has the methods of the socket that it stands for, and behaves alike. It
raises BlockingIOError, takes as much as fits, and lets epoll tell of what it has not read, but for `pending`.
"""

import contextlib
import errno
import functools
import hashlib
import os
import socket
import ssl
import subprocess
from collections.abc import Sequence
from typing import Any, Final, cast

from gkfs.errors import ExitStatus, GkfsError
from gkfs.limits import CERTIFICATE_TIMEOUT_S
from gkfs.messages import Buffer

_RECORD_BYTES: Final = 1 << 14  # the longest there is
_FIRST_BYTE: Final = b"\x16"  # of all connections in TLS: a record of its handshake
_DISCARDED_BYTES: Final = 4096
_DAYS: Final = 3650  # nobody looks at it
# openssl would refuse to work without a configuration, and none of the machine's shall change what it makes.
_CONFIGURATION: Final = b"[req]\ndistinguished_name = name\n[name]\n"
_OPENSSL: Final = (
    *("openssl", "req", "-x509", "-config", "/dev/stdin", "-subj", "/CN=gkfs", "-days", str(_DAYS)),
    *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/stdout"),
)
_WANTS: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class TlsSocket(ssl.SSLSocket):
    """A TCP connection in TLS. *binding*: what proofs are to hold for, once the handshake of TLS is done."""

    _certificate_hash = b""  # ours, at the end that was called
    _begun: memoryview | None = None  # OpenSSL has made a record of it, which the kernel has not taken

    @property
    def binding(self) -> bytes:
        """The hash of the certificate of the end that was called."""
        return self._certificate_hash or _hash(self.getpeercert(binary_form=True) or b"")

    def step(self) -> str:
        """Go on with the handshake of TLS: "" when it is done, else what it waits for, "read" or "write".

        Raises OSError.
        """
        try:
            self.do_handshake()
        except ssl.SSLWantReadError:
            return "read"
        except ssl.SSLWantWriteError:
            return "write"
        return ""

    def is_called_in_tls(self) -> bool:
        """Whether the caller begins with TLS; takes nothing. Raises BlockingIOError, OSError when it is gone."""
        first = socket.socket.recv(self, 1, socket.MSG_PEEK)
        if not first:
            raise OSError(errno.ECONNRESET, "closed the connection without a word")
        return first == _FIRST_BYTE

    def send_plain(self, data: bytes) -> None:
        """Say *data* to a caller who does not speak TLS, before closing."""
        socket.socket.send(self, data)
        with contextlib.suppress(BlockingIOError):  # for what has not been read the kernel would throw it away
            socket.socket.recv(self, _DISCARDED_BYTES)

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except _WANTS:
            raise BlockingIOError from None

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """As of a socket. After it all that has come is in *buffer*, or with the kernel, or `pending` is not 0."""
        room = memoryview(buffer)[:nbytes]
        received = 0
        try:
            while received < len(room):
                count = super().recv_into(room[received:], None, flags)
                received += count
                if count < _RECORD_BYTES and not self.pending():
                    break  # without asking the kernel in vain
        except _WANTS:
            if not received:
                raise BlockingIOError from None
        return received

    def send(self, data: Any, flags: int = 0) -> int:
        # OpenSSL wants to be asked again for the same, and so do those who call us: nothing else comes next.
        rest = self._begun if self._begun is not None else memoryview(data)
        sent = 0
        try:
            while sent < len(rest):
                sent += super().send(rest[sent : sent + _RECORD_BYTES], flags)
        except _WANTS:
            self._begun = rest[sent : sent + _RECORD_BYTES]
            if not sent:
                raise BlockingIOError from None
            return sent
        self._begun = None
        return sent

    def sendmsg(self, pieces: Sequence[Buffer]) -> int:  # type: ignore[override]
        """As of a socket, but what is short leaves in one record with what follows it."""
        if self._begun is not None or len(pieces[0]) >= _RECORD_BYTES:
            return self.send(pieces[0])
        room = _RECORD_BYTES
        gathered = []
        for piece in pieces:
            gathered.append(memoryview(piece)[:room])
            room -= len(gathered[-1])
            if not room:
                break
        return self.send(b"".join(gathered))

    def shutdown(self, how: int) -> None:
        # That of SSLSocket takes TLS off: what is received after it would be taken as it comes.
        socket.socket.shutdown(self, how)


class Certificate:
    """Who is called: a fresh certificate, and what is needed to answer with it."""

    def __init__(self) -> None:
        """Make it, with the program openssl. Raises GkfsError (ACCESS) when that is missing or fails."""
        pem = _made()
        self._context = _context(ssl.PROTOCOL_TLS_SERVER)
        self._context.num_tickets = 0  # each connection proves the key anew
        descriptor = os.memfd_create("gkfs.certificate", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, pem)
            self._context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        begin = pem.index(b"-----BEGIN CERTIFICATE-----")
        self._hash = _hash(ssl.PEM_cert_to_DER_cert(pem[begin:].decode()))

    def answer(self, accepted: socket.socket) -> TlsSocket:
        """The connection that was *accepted*, in TLS from its first byte on; nothing is sent or received yet."""
        result = _wrapped(self._context, accepted, server_side=True)
        result._certificate_hash = self._hash
        return result


def call(connection: socket.socket) -> TlsSocket:
    """The caller's end of a *connection* that has been made; nothing is sent or received yet."""
    return _wrapped(_caller_context(), connection, server_side=False)


def is_tls(head: bytes) -> bool:
    """Whether a connection that begins with *head* is one in TLS."""
    return head[:1] == _FIRST_BYTE and head[1:2] == b"\x03"


def _wrapped(context: ssl.SSLContext, connection: socket.socket, *, server_side: bool) -> TlsSocket:
    # Of the class that the context names.
    return cast(
        TlsSocket,
        context.wrap_socket(connection, server_side=server_side, do_handshake_on_connect=False),
    )


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.sslsocket_class = TlsSocket
    return context


@functools.cache
def _caller_context() -> ssl.SSLContext:
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the proofs of the key are over the certificate
    return context


def _hash(certificate: bytes) -> bytes:
    return hashlib.sha256(certificate).digest()


def _made() -> bytes:
    """A private key and its certificate, as PEM. Both come through a pipe, and are in no file."""
    try:
        done = subprocess.run(
            _OPENSSL, input=_CONFIGURATION, capture_output=True, timeout=CERTIFICATE_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        reason = "the program openssl is missing (package openssl)"
    except OSError as error:
        reason = f"openssl: {error.strerror}"
    except subprocess.TimeoutExpired:
        reason = f"openssl does not end within {CERTIFICATE_TIMEOUT_S:.0f} s"
    else:
        if not done.returncode and b"-----BEGIN CERTIFICATE-----" in done.stdout:
            return done.stdout
        lines = done.stderr.decode(errors="replace").split("\n")
        reason = f"openssl fails: {next((line.strip() for line in lines if line.strip()), done.returncode)}"
    raise GkfsError(f"no certificate for --tls: {reason}", ExitStatus.ACCESS)
