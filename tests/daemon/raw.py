"""A daemon for tests, and connections to it of which a test sends every byte itself."""

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from gkfs import handshake, transport, wire
from gkfs.commands import hostfiles
from gkfs.daemon.server import DaemonSettings, serve
from gkfs.handshake import Call
from gkfs.hostfile import DaemonAddress
from gkfs.keyfile import Access, Key
from gkfs.messages import HelloRequest, StatRequest
from gkfs.operations import HELLO, STAT, Operation

FSID = "a" * 32
CLIENT = b"c" * 16
KEY = Key(b"k" * 32)
ACCESS = Access(FSID, KEY)


@asynccontextmanager
async def daemon(folder: Path, *, merge: bool = True) -> AsyncIterator[DaemonAddress]:
    path = folder / "hosts"
    if not path.exists():
        hostfiles.create(path, FSID, 1, KEY)
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            stop = trio.Event()

            async def run(task_status: Any) -> None:
                settings = DaemonSettings(folder / "d", path, 0, merge=merge)
                await serve(settings, stop=stop, task_status=task_status)

            yield (await nursery.start(run)).address
            stop.set()


class Raw:
    """A connection of which a test sends every byte itself."""

    def __init__(self, address: DaemonAddress, *, tcp: bool = False) -> None:
        if tcp:
            self.socket = socket.create_connection(transport.tcp_address(address.tcp))
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(str(transport.unix_path(address.unix)))
        self.socket.setblocking(False)
        self.decoder = wire.Decoder()
        self.messages: list[wire.Message] = []

    async def send(self, *messages: list[Any]) -> None:
        data = b"".join(piece for pieces in messages for piece in pieces)
        while data:
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.socket.fileno())

    async def receive(self) -> wire.Message:
        while not self.messages:
            await trio.lowlevel.wait_readable(self.socket.fileno())
            count = self.socket.recv_into(self.decoder.buffer())
            if not count:
                raise EOFError
            self.messages += self.decoder.received(count)
        return self.messages.pop(0)

    async def take(self, count: int) -> bytes:
        """*count* bytes. Raises EOFError with what came before the end."""
        data = b""
        while len(data) < count:
            await trio.lowlevel.wait_readable(self.socket.fileno())
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise EOFError(data)
            data += piece
        return data

    async def answer(self, greeting: bytes) -> bytes:
        """What the daemon answers to *greeting*."""
        await self.send([greeting])
        return await self.take(handshake.ANSWER_BYTES)

    async def prove(self, client_id: bytes = CLIENT, role: str = "client") -> None:
        """The handshake, but for the HELLO."""
        mine = call(client_id=client_id, role=role)
        await self.send([mine.prove(await self.answer(mine.greeting))])

    async def hello(self, client_id: bytes = CLIENT, role: str = "client") -> wire.Message:
        """All of the handshake."""
        await self.prove(client_id, role)
        await self.send(wire.encode_request(HELLO, 0, HelloRequest("test")))
        return await self.receive()

    async def call(self, operation: Operation[Any, Any], seq: int, request: Any) -> wire.Message:
        await self.send(wire.encode_request(operation, seq, request))
        return await self.receive()

    def close(self) -> None:
        self.socket.close()


def with_daemon(test: Callable[[DaemonAddress], Awaitable[None]]) -> Callable[[Path], None]:
    """Run an async test beside one daemon."""

    async def main(folder: Path) -> None:
        async with daemon(folder) as address:
            await test(address)

    def run(tmp_path: Path) -> None:
        trio.run(main, tmp_path)

    run.__name__, run.__module__ = test.__name__, test.__module__
    return run


async def is_closed(raw: Raw) -> bool:
    try:
        await raw.receive()
    except (EOFError, ConnectionResetError):
        raw.close()
        return True
    return False


def call(access: Access = ACCESS, index: int = 0, client_id: bytes = CLIENT, role: str = "client") -> Call:
    return Call(access, index, client_id, role, "the daemon")


async def known(address: DaemonAddress, client_id: bytes = CLIENT, role: str = "client") -> Raw:
    """A connection after its handshake."""
    raw = Raw(address)
    assert (await raw.hello(client_id, role)).errno == 0
    return raw


async def serves(address: DaemonAddress) -> None:
    """The daemon answers who has the key."""
    good = Raw(address)
    await good.hello(os.urandom(16))
    assert (await good.call(STAT, 1, StatRequest(b"/", 0))).errno == 0
    good.close()


async def end_of(raw: Raw) -> bytes:
    """All that comes until the daemon closes the connection."""
    data = b""
    try:
        while True:
            data += await raw.take(1)
    except (EOFError, ConnectionResetError):
        raw.close()
        return data
