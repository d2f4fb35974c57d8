"""A daemon process is killed: nothing it acknowledged is lost, no request is executed twice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from stat import S_IFREG

import trio

from gkfs import metadentry
from gkfs.hostfile import Features
from gkfs.messages import CreateReply, ExtendRequest, UnlinkReply, UnlinkRequest
from gkfs.operations import CREATE, EXTEND, UNLINK
from tests.cluster.cluster import TEST_TIMEOUT_S, Client, Cluster, create_request, eventually

PROGRAM = """
import sys
from functools import partial
from pathlib import Path
from gkfs.daemon.process import run_daemon
from gkfs.daemon.server import DaemonSettings
run_daemon(DaemonSettings(Path(sys.argv[1]), Path(sys.argv[2]), 0))
"""
CHECKOUT = Path(__file__).parents[2]


class Process:
    """A daemon process that can be killed and started again."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.start()

    def start(self) -> None:
        settings = self.cluster.settings(0)
        command = [sys.executable, "-c", PROGRAM, str(settings.rootdir), str(settings.hostfile)]
        self.process = subprocess.Popen(command, cwd=CHECKOUT)

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait()


def with_process(test: Callable[[Process], Awaitable[None]]) -> Callable[[Path], None]:
    async def main(folder: Path) -> None:
        with trio.fail_after(TEST_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                process = Process(Cluster(folder, 1, nursery, Features()))
                try:
                    await test(process)
                    assert process.end(signal.SIGTERM) == 0
                finally:
                    process.process.kill()
                    process.process.wait()
                nursery.cancel_scope.cancel()

    def run(tmp_path: Path) -> None:
        trio.run(main, tmp_path)

    run.__name__, run.__module__ = test.__name__, test.__module__
    return run


@with_process
async def test_killed_daemon_keeps_what_it_acknowledged(process: Process) -> None:
    client = process.cluster.client
    entry = await client.create(b"/f")
    await client.write(b"/f", entry, 0, b"data" * 100_000)
    await client.mkdir(b"/d")
    await client.rename(b"/f", b"/d/g")
    process.end(signal.SIGKILL)
    process.start()
    moved = await client.stat(b"/d/g")
    assert (moved.fid, moved.size) == (entry.fid, 400_000)
    assert await client.read(entry.fid, 0) == b"data" * 100_000
    assert not await client.exists(b"/f")
    status = await client.status(0)
    assert (status.files, status.directories, status.used_bytes) == (1, 2, 400_000)
    new = await client.create(b"/f")
    assert new.fid != entry.fid


@with_process
async def test_requests_in_flight_when_killed_are_executed_once(process: Process) -> None:
    client = process.cluster.client
    replies: list[CreateReply | OSError] = []
    removals: list[UnlinkReply | OSError] = []
    count, batch, kills = 4000, 100, 6

    async def create_and_remove(first: int) -> None:
        requests = [create_request(b"/f%d" % n, S_IFREG | 0o600) for n in range(first, first + batch)]
        replies.extend(await client.peer(0).call_many(CREATE, requests))
        again = [UnlinkRequest(b"/f%d" % n, 0, 0, time.time_ns()) for n in range(first, first + batch)]
        removals.extend(await client.peer(0).call_many(UNLINK, again))

    async def work() -> None:
        for first in range(0, count, 2 * batch):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(create_and_remove, first)
                nursery.start_soon(create_and_remove, first + batch)

    async def kill() -> None:
        for number in range(1, kills + 1):
            await eventually(partial(has, number * count // (kills + 1)))
            process.end(signal.SIGKILL)
            process.start()

    async def has(number: int) -> bool:
        return len(replies) >= number

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        nursery.start_soon(kill)
    assert [reply for reply in replies if not isinstance(reply, CreateReply) or not reply.created] == []
    assert [reply for reply in removals if not isinstance(reply, UnlinkReply)] == []
    assert len(removals) == count
    assert await client.listing(b"/") == []


@with_process
async def test_sigterm_and_repeats_of_it_stop_cleanly(process: Process) -> None:
    client: Client = process.cluster.client
    entry = await client.create(b"/f")
    request = ExtendRequest(b"/f", entry.fid, 5, time.time_ns(), False, False)
    await client.call(0, EXTEND, request)
    for _ in range(3):
        os.kill(process.process.pid, signal.SIGTERM)
    assert process.process.wait() == 0
    process.start()
    assert metadentry.encode(await client.stat(b"/f"))
    assert (await client.stat(b"/f")).size == 5
