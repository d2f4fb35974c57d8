"""Processes that ask each other for votes without sockets, each with its own disk."""

import errno
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import trio
import trio.testing

from gkfs.copy_messages import View
from gkfs.daemon.agreement import Agreement
from gkfs.daemon.session import Session
from gkfs.errors import os_error
from gkfs.keyfile import Access, Key
from gkfs.operations import VIEW_NEWS, Operation
from tests.hosts import write_hosts

FSID = "5f0c6f6d1c2b4b0e9a51d6c2c3f0a911"
SHARD = 0
BASE = View(SHARD, 1, 0, 1, 2)
SOMEBODY = Session(b"somebody", "copy")
FIRST = [View(shard, 1, shard, (shard + 1) % 4, (shard + 2) % 4) for shard in range(4)]
ACCESS = Access(FSID, Key(b"k" * 32), False)


class Net:
    """What stands in for the connections. *elsewhere*: who answers as whom.

    *down*: who does not answer; *deaf*: who takes no news.
    """

    def __init__(self) -> None:
        self.agreements: dict[int, Agreement] = {}
        self.down: set[int] = set()
        self.deaf: set[int] = set()
        self.elsewhere: dict[int, int] = {}

    async def call(self, process: int, operation: Operation[Any, Any], request: Any, timeout_s: float) -> Any:
        await trio.lowlevel.checkpoint()
        there = self.agreements.get(self.elsewhere.get(process, process))
        if there is None or there.own in self.down or (there.own in self.deaf and operation is VIEW_NEWS):
            await trio.sleep(timeout_s)
            raise os_error(errno.ETIMEDOUT, f"{process} is silent")
        if operation is VIEW_NEWS:
            return there.news(SOMEBODY, request)
        reply = there.vote(SOMEBODY, request)
        return await reply if isinstance(reply, Coroutine) else reply

    def join(self, agreement: Agreement) -> None:
        self.agreements[agreement.own] = agreement
        agreement._peers = self  # type: ignore[assignment]


def simulate(folder: Path, test: Callable[[Net, trio.Nursery], Awaitable[None]]) -> None:
    """Run *test* with four processes, on a clock that does not wait."""

    async def main() -> None:
        net = Net()
        write_hosts(folder / "hosts", FSID, 4)
        async with trio.open_nursery() as nursery:
            for own in range(4):
                (folder / str(own)).mkdir()
                agreement = Agreement(own, folder / str(own), ACCESS, folder / "hosts", 4, nursery)
                agreement.views.begin(FIRST)
                if own != SHARD:
                    agreement.views.open(own)
                net.join(agreement)
            await test(net, nursery)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))
