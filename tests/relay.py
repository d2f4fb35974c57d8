"""Somebody on the network between a client and a daemon: he listens, changes what he hears, or speaks himself."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self

from gkfs import transport
from gkfs.hostfile import DaemonAddress

# Changes a piece that passes; the bytes that have passed before it, in its direction, come first.
Change = Callable[[int, bytes], bytes]


def as_it_is(_before: int, piece: bytes) -> bytes:
    """Change nothing."""
    return piece


class Relay:
    """Carries TCP connections to *daemon*, in threads. Use as a context; *heard* is all that has passed."""

    def __init__(self, daemon: DaemonAddress) -> None:
        self.heard = bytearray()
        self.to_daemon: Change = as_it_is
        self.to_client: Change = as_it_is
        self.connections = 0
        self._target = transport.tcp_address(daemon.tcp)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self.address = daemon._replace(tcp=f"tcp://127.0.0.1:{self._listener.getsockname()[1]}", unix="-")

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._open):
            one.close()

    def cut(self) -> None:
        """End all connections."""
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                daemon = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self._open += [client, daemon]
            for source, target, change in (
                (client, daemon, lambda before, piece: self.to_daemon(before, piece)),
                (daemon, client, lambda before, piece: self.to_client(before, piece)),
            ):
                self._threads.append(threading.Thread(target=self._carry, args=(source, target, change)))
                self._threads[-1].start()

    def _carry(self, source: socket.socket, target: socket.socket, change: Change) -> None:
        before = 0
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                self.heard += piece
                target.sendall(change(before, piece))
                before += len(piece)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
