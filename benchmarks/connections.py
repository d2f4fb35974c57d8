"""What the proof of the key costs: connections per second, with the handshake and without anything proved.

\b
  python -m benchmarks.connections            5 rounds of 500 connections each way

A daemon in a process of its own, on Unix and TCP sockets of this machine; one connection after another, each
opened, greeted and closed. Beside it a server that does nothing but answer one short message for each connection,
likewise called by trio; and the processor time that the proofs of both sides take by themselves.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
import trio

from benchmarks.program import ROOT
from benchmarks.systems.ours import GKFS
from gkfs import handshake, hostfile
from gkfs.commands import control, hostfiles
from gkfs.errors import GkfsError
from gkfs.hostfile import NO_ADDRESS, Hostfile
from gkfs.keyfile import Key
from gkfs.transport import open_connection

_START_S = 30.0
_MESSAGE_BYTES = 100  # of a greeting, and of what answers it


async def _per_second(connect: Callable[[], Awaitable[None]], count: int) -> float:
    started_s = time.perf_counter()
    for _ in range(count):
        await connect()
    return count / (time.perf_counter() - started_s)


async def _greet(hosts: Hostfile, kind: str) -> None:
    address = hosts.daemons[0]
    address = address._replace(tcp=NO_ADDRESS) if kind == "Unix" else address._replace(unix=NO_ADDRESS)
    connection, _ = await open_connection(address, hosts.access, os.urandom(16), "client")
    connection.close()


async def _ask(target: str | tuple[str, int]) -> None:
    family = socket.AF_UNIX if isinstance(target, str) else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_STREAM) as connection:
        await connection.connect(target)
        await connection.send(bytes(_MESSAGE_BYTES))
        await connection.recv(_MESSAGE_BYTES)


def _answer(folder: str) -> None:
    """The server that proves nothing; a process of its own, until it is killed."""

    async def one(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(_MESSAGE_BYTES)
            await stream.send_all(bytes(_MESSAGE_BYTES))

    async def serve() -> None:
        unix = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        await unix.bind(f"{folder}/socket")
        unix.listen(128)
        tcp = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        Path(folder, "port.new").write_text(str(tcp.socket.getsockname()[1]))
        Path(folder, "port.new").rename(Path(folder, "port"))
        await trio.serve_listeners(one, [trio.SocketListener(unix), tcp])

    trio.run(serve)


def _proofs_us(hosts: Hostfile) -> float:
    """Processor time of both sides' proofs for one connection."""
    count = 2000
    started_s = time.process_time()
    for _ in range(count):
        call = handshake.Call(hosts.access, 0, bytes(16), "client", "a daemon")
        text, _ = handshake.answer(hosts.access.key, call.greeting)
        call.prove(text)
    return (time.process_time() - started_s) / count * 1e6


def _until(ready: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline_s = time.monotonic() + _START_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise GkfsError("a server of the measurement does not start")
        time.sleep(0.02)


def _complete(path: Path) -> bool:
    hosts = hostfile.read(path)
    return hosts.complete and not any(isinstance(a, GkfsError) for a in control.statuses(hosts).values())


@click.command(help=__doc__)
@click.option("--count", type=click.IntRange(1), default=500, show_default=True, help="connections in a round")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--bare", help="serve without proofs in this folder", hidden=True)
def main(count: int, rounds: int, bare: str | None) -> None:
    """Start, measure, end."""
    if bare is not None:
        _answer(bare)
        return
    with tempfile.TemporaryDirectory(prefix="gkfs-connections-") as name:
        folder = Path(name)
        (folder / "data").mkdir()
        hostfiles.create(folder / "hosts", hostfiles.new_fsid(), 1, Key.fresh())
        where = ["--rootdir", f"{name}/data", "--hostfile", f"{name}/hosts", "--listen", "tcp://127.0.0.1:0"]
        daemon = subprocess.Popen([*GKFS, "daemon", *where, "--index", "0"], cwd=ROOT, stderr=subprocess.DEVNULL)
        other = subprocess.Popen([sys.executable, "-m", "benchmarks.connections", "--bare", name], cwd=ROOT)
        try:
            _until(lambda: _complete(folder / "hosts"), daemon)
            _until((folder / "port").exists, other)
            hosts = hostfile.read(folder / "hosts")
            targets = {"Unix": f"{name}/socket", "TCP": ("127.0.0.1", int((folder / "port").read_text()))}
            for kind, target in targets.items():
                rates: dict[str, list[float]] = {"proved": [], "bare": []}
                for _ in range(rounds):
                    rates["proved"].append(trio.run(_per_second, lambda kind=kind: _greet(hosts, kind), count))
                    rates["bare"].append(trio.run(_per_second, lambda target=target: _ask(target), count))
                proved, plain = (statistics.median(rates[key]) for key in ("proved", "bare"))
                click.echo(f"{kind}: {proved:.0f} connections/s with the handshake, {plain:.0f}/s without")
            click.echo(f"proofs of both sides: {_proofs_us(hosts):.1f} us of processor time for a connection")
        finally:
            for process in (daemon, other):
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
