"""Questions to daemons: all of a file system asked in parallel, each within a bounded time.

What fails for one daemon is the outcome for that daemon, a GkfsError; it does not keep the others from answering.
"""

import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import trio

from gkfs.channel import Channel
from gkfs.commands import rootdirs
from gkfs.commands.children import is_running
from gkfs.errors import ExitStatus, GkfsError, ProtocolError
from gkfs.hostfile import NO_ADDRESS, DaemonAddress, Hostfile
from gkfs.keyfile import Access
from gkfs.limits import CONNECT_TIMEOUT_S, CONTROL_PARALLEL, CONTROL_TIMEOUT_S, POLL_INTERVAL_S
from gkfs.messages import Empty, StatusReply
from gkfs.operations import SHUTDOWN, STATUS, Operation, Q, R
from gkfs.transport import open_connection, tcp_address, unix_path

T = TypeVar("T")
Outcomes = dict[int, T | GkfsError]


def statuses(hosts: Hostfile) -> Outcomes[StatusReply]:
    """What each daemon in the hostfile says of itself, or why it says nothing, by index."""
    return _for_each(hosts.daemons.values(), lambda address: _ask(address, hosts.access, STATUS))


def stop(hosts: Hostfile, deadline_s: float) -> Outcomes[bool]:
    """Shut every daemon down and wait until it is gone: True, or False when it was gone before.

    *deadline_s* is of time.monotonic(). A daemon that does not go by then, or may run but does not answer, is an
    error.
    """
    return _for_each(hosts.daemons.values(), lambda address: _stop_one(address, hosts.access, deadline_s))


def local_folder(address: DaemonAddress, fsid: str) -> Path | None:
    """The daemon's own folder if it is on this machine: where its Unix socket is or was."""
    if address.unix == NO_ADDRESS:
        return None
    folder = unix_path(address.unix).parent
    try:
        contents = rootdirs.read_contents(folder)
    except GkfsError:
        return None  # damaged or another user's
    ours = contents is not None and (contents.fsid, contents.daemon) == (fsid, address.daemon)
    return folder if ours else None


def _for_each(addresses: Iterable[DaemonAddress], act: Callable[[DaemonAddress], Awaitable[T]]) -> Outcomes[T]:
    outcomes: Outcomes[T] = {}
    limit = trio.CapacityLimiter(CONTROL_PARALLEL)

    async def one(address: DaemonAddress) -> None:
        async with limit:
            try:
                outcomes[address.daemon] = await act(address)
            except GkfsError as error:
                outcomes[address.daemon] = error

    async def all_of_them() -> None:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                nursery.start_soon(one, address)

    trio.run(all_of_them, strict_exception_groups=True)
    return dict(sorted(outcomes.items()))


class Conversation:
    """A connection to one daemon, for one question after the other."""

    def __init__(self, address: DaemonAddress, connection: socket.socket) -> None:
        self._address = address
        self._connection = connection
        self._channel = Channel(str(address))
        self._channel.connection_made()

    @classmethod
    async def begin(cls, address: DaemonAddress, access: Access) -> Self:
        """Connect. Raises GkfsError."""
        connection, _ = await open_connection(address, access, os.urandom(16), "control")
        return cls(address, connection)

    def close(self) -> None:
        """End it."""
        self._connection.close()

    async def ask(self, operation: Operation[Q, R], request: Q, timeout_s: float = CONTROL_TIMEOUT_S) -> R:
        """The reply. Raises GkfsError when there is none, OSError when it is one."""
        address, channel = self._address, self._channel
        call = channel.submit(operation, request, time.monotonic() + timeout_s)
        try:
            with trio.move_on_after(timeout_s) as scope:
                await self._send(b"".join(channel.take_output()))
                while not call.done:
                    try:
                        count = self._connection.recv_into(channel.buffer())
                    except BlockingIOError:
                        await trio.lowlevel.wait_readable(self._connection.fileno())
                        continue
                    if count == 0:
                        raise _unreachable(address, f"closed the connection instead of answering {operation.name}")
                    channel.received(count)
                    await trio.lowlevel.checkpoint()  # who sends for ever is heard for *timeout_s*
        except ProtocolError as error:
            raise GkfsError(f"{address} does not speak gkfs: {error}", ExitStatus.VERSION) from None
        except OSError as error:
            raise _unreachable(address, error.strerror or str(error)) from None
        if scope.cancelled_caught:
            raise _unreachable(address, f"did not answer {operation.name} within {timeout_s:.0f} s")
        return call.result()

    async def _send(self, data: bytes) -> None:
        while data:
            try:
                data = data[self._connection.send(data) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._connection.fileno())


async def converse(hosts: Hostfile, work: Callable[[dict[int, Conversation]], Awaitable[T]]) -> T:
    """Do *work* with connections to all daemons, by index. Raises the first GkfsError, not in a group."""
    if hosts.missing:
        reason = f"daemon {hosts.missing[0]} is not in the hostfile: it has not started"
        raise GkfsError(reason, ExitStatus.UNREACHABLE)
    daemons: dict[int, Conversation] = {}
    limit = trio.CapacityLimiter(CONTROL_PARALLEL)

    async def begin(address: DaemonAddress) -> None:
        async with limit:
            daemons[address.daemon] = await Conversation.begin(address, hosts.access)

    try:
        async with trio.open_nursery() as nursery:
            for address in hosts.daemons.values():
                nursery.start_soon(begin, address)
        return await work(daemons)
    except* GkfsError as group:
        raise _first(group) from None
    finally:
        for daemon in daemons.values():
            daemon.close()


def _first(group: BaseExceptionGroup[GkfsError]) -> GkfsError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, GkfsError)
    return error


async def _ask(address: DaemonAddress, access: Access, operation: Operation[Empty, R]) -> R:
    conversation = await Conversation.begin(address, access)
    try:
        return await conversation.ask(operation, Empty())
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from None
    finally:
        conversation.close()


async def _stop_one(address: DaemonAddress, access: Access, deadline_s: float) -> bool:
    folder = local_folder(address, access.fsid)
    pid = rootdirs.holder(folder) if folder else None
    reason = "was told to stop and still runs"
    try:
        await _ask(address, access, SHUTDOWN)
    except GkfsError as error:
        if error.status not in (ExitStatus.UNREACHABLE, ExitStatus.HOSTFILE):
            raise
        if await _is_gone(address, access, pid):
            return False
        if error.status is ExitStatus.HOSTFILE:
            return False  # another daemon has its address now
        # It may be ending already, asked by someone else, or hang.
        reason = "does not answer and may still run"
    gone = partial(_is_gone, address, access, pid)
    while not await gone():
        if time.monotonic() > deadline_s:
            where = f", process {pid}" if pid else ""
            raise _unreachable(address, f"{reason}{where}; end it by hand")
        await trio.sleep(POLL_INTERVAL_S)
    return True


async def _is_gone(address: DaemonAddress, access: Access, pid: int | None) -> bool:
    """Whether nothing is left of the daemon: on this machine its process, elsewhere its TCP address."""
    if pid and is_running(pid):
        return False
    folder = local_folder(address, access.fsid)
    if folder is not None:
        return rootdirs.holder(folder) is None
    if address.tcp == NO_ADDRESS:
        return True
    host, port = tcp_address(address.tcp)
    try:
        with trio.fail_after(CONNECT_TIMEOUT_S):
            stream = await trio.open_tcp_stream(host, port)
        await stream.aclose()
    except trio.TooSlowError:
        return False
    except (OSError, socket.gaierror):
        return True
    # Something accepts there. It is gone if that is another daemon.
    try:
        (await open_connection(address, access, os.urandom(16), "control"))[0].close()
    except GkfsError as error:
        return error.status is ExitStatus.HOSTFILE
    return False


def _unreachable(address: DaemonAddress, reason: str) -> GkfsError:
    return GkfsError(f"{address} {reason}", ExitStatus.UNREACHABLE)
