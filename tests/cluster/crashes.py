"""Ending a daemon at each step of an operation over several daemons."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
import trio

from gkfs.daemon.peers import Peers
from gkfs.daemon.rename import Renaming
from tests.cluster.cluster import TEST_TIMEOUT_S, Client, Cluster, eventually

GIVE_UP_S = 0.15  # a client that does not repeat its request: what it began is finished or undone without it
BACKGROUND_S = 0.05  # for what follows the reply
QUIET_TURNS = 10  # of so long without a step: nothing goes on any more, also on a busy machine
STEPS_MAX = 80


class CrashPoint:
    """Ends daemon *victim* at the *at*-th step of daemon *watched*: before or after one of its calls."""

    def __init__(self, cluster: Cluster, watched: int, victim: int, at: int) -> None:
        self.cluster = cluster
        self.watched = watched
        self.victim = victim
        self.at = at
        self.steps = 0
        self.reached = False  # the victim is ending or has ended

    async def step(self) -> None:
        self.steps += 1
        if self.steps != self.at:
            return
        if self.victim == self.watched:
            self.reached = True
            self.cluster.kill(self.victim)
            await trio.lowlevel.checkpoint()
        else:
            await self.cluster.crash(self.victim)
            self.reached = True

    async def passed(self) -> bool:
        """Wait until the crash has come, or nothing has gone on for a while; whether it has come."""
        seen, quiet_turns = self.steps, 0
        while quiet_turns < QUIET_TURNS and not self.reached:
            await trio.sleep(BACKGROUND_S)
            quiet_turns = quiet_turns + 1 if self.steps == seen else 0
            seen = self.steps
        return self.reached

    @contextlib.contextmanager
    def planted(self) -> Any:
        original = Peers.call

        async def call(peers: Peers, *arguments: Any, **options: Any) -> Any:
            if peers._own_index != self.watched:
                return await original(peers, *arguments, **options)
            await self.step()
            reply = await original(peers, *arguments, **options)
            await self.step()
            return reply

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Peers, "call", call)
            yield


@contextlib.contextmanager
def renames_counted() -> Iterator[set[object]]:
    """The renames that coordinators are busy with, also for clients that have given up."""
    original, under_way = Renaming._run, set[object]()

    async def run(*arguments: Any) -> Any:
        this = object()
        under_way.add(this)
        try:
            return await original(*arguments)
        finally:
            under_way.discard(this)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Renaming, "_run", run)
        yield under_way


async def crash_at_each_step(
    cluster: Cluster,
    watched: int,
    victim: int,
    work: Callable[[int], Awaitable[Callable[[], Awaitable[None]]]],
    stride: int = 1,
) -> int:
    """Prepare and run `work` again and again, with a crash one step later each time; returns how many steps.

    ``await work(n)`` prepares round *n* and returns the operation; `cluster` is whole again after each round.
    """
    with renames_counted() as under_way:

        async def decided() -> bool:
            return not under_way

        for at in range(1, STEPS_MAX, stride):
            operation = await work(at)
            point = CrashPoint(cluster, watched, victim, at)
            with point.planted():
                with contextlib.suppress(OSError):
                    await operation()
                if not await point.passed():
                    return at - 1
                await trio.sleep(BACKGROUND_S)
                await cluster.ended(victim)
            await cluster.start(victim)
            await eventually(decided)
    raise AssertionError("no end")


async def crash_and_repeat(
    cluster: Cluster, watched: int, victim: int, operation: Callable[[int], Awaitable[None]], stride: int = 1
) -> int:
    """As `crash_at_each_step`, but the daemon comes back and the client repeats: *operation* must succeed."""
    for at in range(1, STEPS_MAX, stride):
        point = CrashPoint(cluster, watched, victim, at)
        with point.planted():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(come_back, cluster, point)
                await operation(at)
                await point.passed()
                await trio.sleep(BACKGROUND_S)
                nursery.cancel_scope.cancel()
            if not point.reached:
                return at - 1
        if not cluster.is_running(victim):
            await cluster.ended(victim)
            await cluster.start(victim)
    raise AssertionError("no end")


async def come_back(cluster: Cluster, point: CrashPoint) -> None:
    await eventually(partial(is_reached, point), TEST_TIMEOUT_S)
    with trio.CancelScope(shield=True):
        await cluster.ended(point.victim)
        await cluster.start(point.victim)


async def is_reached(point: CrashPoint) -> bool:
    return point.reached


def other_owner(client: Client, path: bytes, prefix: bytes) -> bytes:
    return next(name for n in range(100) if client.owner(name := prefix + b"%d" % n) != client.owner(path))
