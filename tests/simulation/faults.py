"""What goes wrong in a run, and when: drawn from the seed, at calls of programs."""

import math
import shutil
from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING, Final

import trio

from tests.simulation.node import DaemonNode, GuestNode

if TYPE_CHECKING:
    from tests.simulation.world import World

_STEPS_MAX: Final = 30  # of a process, before the one at which it ends
_REPLACED_S: Final = 12.0  # by which another answers in its place
_CUT_OFF_S: Final = (3.0, 6.0, 25.0, 70.0)  # from the second on another may take its place
_RESTARTED_S: Final = (0.01, 0.5, 3.0, 6.0, 25.0)
_SOON_S: Final = 2.0  # by which it is killed anyway
_SHORT_S: Final = (0.01, 0.1, 0.5, 3.0)
_LONG_S: Final = (25.0, 70.0)
_LONG_CHANCE: Final = 0.04
_PAUSES_S: Final = (0.01, 0.1, 0.5)  # nobody is taken for dead
_EARLY_CHANCE: Final = 0.1  # of a daemon that has just started to be killed


class Faults:
    """The faults of one run."""

    def __init__(self, world: "World", random: Random) -> None:
        self._world = world
        self._random = random
        self.longest_s = 0.0  # for which something was away
        self.killed_daemons = 0
        self._all_there_s = 0.0  # when no daemon is away any more; with two copies
        self._kinds: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (6, self.kill_daemon),
            (1, self.end_daemon),
            (6, self.break_connection),
            (6, self.lose_replies),
            (3, self.clog),
            (2, self.partition),
            (2, self.kill_client),
        ]
        if world.replicas > 1:
            # What is away for long is replaced, and of two that are away at once nothing may be left.
            self._kinds = [
                (4, self.lose_daemon),
                (4, self.cut_daemon_off),
                (4, self.restart_daemon),
                (6, self.break_connection),
                (6, self.lose_replies),
                (3, self.clog),
                (2, self.kill_client),
            ]

    def draw(self) -> Callable[[], Awaitable[None]]:
        """One of them."""
        return self._random.choices([act for _, act in self._kinds], [weight for weight, _ in self._kinds])[0]

    def _away_s(self) -> float:
        lasts = _LONG_S if self._random.random() < _LONG_CHANCE else _SHORT_S
        away_s = self._random.choice(lasts if self._world.replicas == 1 else _PAUSES_S)
        self.longest_s = max(self.longest_s, away_s)
        return away_s

    async def kill_daemon(self) -> None:
        """Now, or at one of its next steps."""
        daemon = self._random.choice(self._world.daemons)
        if daemon.is_up:
            await self._kill(daemon)

    async def _kill(self, daemon: DaemonNode) -> None:
        self.killed_daemons += 1
        process = daemon.process
        if self._random.random() < 0.7:
            process.die_soon(self._random, _STEPS_MAX)
            await trio.sleep(_SOON_S)
        if process.alive:
            self._world.trace(f"{daemon.name} is killed")
            process.kill()

    # --- with two copies

    async def _one_to_go(self, *, for_good: bool = False) -> DaemonNode | None:
        """A daemon that may be away for long now: no other one is, and everything is on two. Then none may.

        *for_good* one only may, or there are too few.
        """
        clock = self._world.system.clock
        if clock.now_s < self._all_there_s or not await self._world.is_mirrored():
            return None
        there = [daemon for daemon in self._world.daemons if daemon.is_up and not daemon.lost]
        all_there = len(there) == len(self._world.daemons)
        if clock.now_s < self._all_there_s or len(there) < 2 or (for_good and not all_there):
            return None
        self._all_there_s = math.inf
        return self._random.choice(there)

    def _note_away(self, how: str) -> None:
        self._world.report.counts[how] += 1
        self.longest_s = max(self.longest_s, _REPLACED_S)

    def _soon_all_there(self) -> None:
        self._all_there_s = self._world.system.clock.now_s + _REPLACED_S

    async def lose_daemon(self) -> None:
        """One for good, its disk included."""
        if (daemon := await self._one_to_go(for_good=True)) is None:
            return
        daemon.lost = True
        self._note_away("daemons lost")
        await self._kill(daemon)
        await daemon.ended.wait()
        shutil.rmtree(daemon.settings.rootdir)
        self._soon_all_there()

    async def restart_daemon(self) -> None:
        """Kill one, or have it end; it comes back on its rootdir, which another may have replaced."""
        if (daemon := await self._one_to_go()) is None:
            return
        self._note_away("daemons restarted")
        if self._random.random() < 0.7:
            await self._kill(daemon)
        else:
            self._end(daemon)

    async def cut_daemon_off(self) -> None:
        """One, from all others, or from all daemons, or one of these; both ways, or one."""
        if (daemon := await self._one_to_go()) is None:
            return
        daemons = [other.host for other in self._world.daemons if other is not daemon]
        everybody = [host for host in self._world.hosts() if host != daemon.host]
        others = self._random.choice((everybody, daemons, [self._random.choice(daemons)]))
        hears, is_heard = self._random.choice(((False, False), (False, False), (True, False), (False, True)))
        away_s = self._random.choice(_CUT_OFF_S)
        network = self._world.system.network
        until_s = network.clock.now_s + away_s
        self._world.trace(f"{daemon.name} is cut off from {others} for {away_s} s: {hears=} {is_heard=}")
        self._note_away("daemons cut off")
        self.longest_s = max(self.longest_s, away_s if others is everybody else 0.0)
        self._all_there_s = until_s + _REPLACED_S
        self._cut(daemon.host, others, until_s, hears=hears, is_heard=is_heard)

    # --- with one or two

    async def end_daemon(self) -> None:
        """As SIGTERM."""
        daemon = self._random.choice(self._world.daemons)
        if daemon.is_up:
            self._end(daemon)

    def _end(self, daemon: DaemonNode) -> None:
        self._world.trace(f"{daemon.name} is told to end")
        daemon.terminate()

    async def keep(self, daemon: DaemonNode) -> None:
        """Start *daemon* again whenever it has ended."""
        while True:
            await daemon.ended.wait()
            if daemon.lost:
                if daemon.replaced:
                    self.killed_daemons += 1
                    self._note_away("daemons replaced")
                return
            self._world.trace(f"{daemon.name} has ended")
            await trio.sleep(self._away_s() if self._world.replicas == 1 else self._random.choice(_RESTARTED_S))
            self._world.trace(f"{daemon.name} starts")
            daemon.start()
            self._soon_all_there()
            if self._random.random() < _EARLY_CHANCE:
                daemon.process.die_soon(self._random, _STEPS_MAX)

    async def break_connection(self) -> None:
        pipes = self._world.system.network.live_pipes()
        if pipes:
            self._world.trace("a connection breaks")
            self._random.choice(pipes).on_break()

    async def lose_replies(self) -> None:
        """A connection breaks after a few bytes more in one direction."""
        pipes = self._world.system.network.live_pipes()
        if pipes:
            self._random.choice(pipes).breaks_after = self._random.choice((0, 1, 30, 200))

    async def clog(self) -> None:
        """One direction between two hosts stops for a while."""
        hosts = self._world.hosts()
        if len(hosts) < 2:
            return
        source, target = self._random.sample(hosts, 2)
        network = self._world.system.network
        network.cut(source, target, network.clock.now_s + self._away_s())
        self._world.trace(f"{source} does not reach {target}")

    async def partition(self) -> None:
        """One host does not reach the others, nor they it."""
        hosts = self._world.hosts()
        if not hosts:
            return
        one = self._random.choice(hosts)
        network = self._world.system.network
        until_s = network.clock.now_s + self._away_s()
        self._world.trace(f"{one} is alone")
        self._cut(one, [other for other in hosts if other != one], until_s)

    def _cut(
        self, one: str, others: list[str], until_s: float, *, hears: bool = False, is_heard: bool = False
    ) -> None:
        for other in others:
            if not hears:
                self._world.system.network.cut(other, one, until_s)
            if not is_heard:
                self._world.system.network.cut(one, other, until_s)

    async def kill_client(self) -> None:
        """With its programs; another one comes."""
        clients = [client for client in self._world.clients if client.is_up]
        if self._world.replicas > 1:  # with a guest a daemon would end
            clients = [client for client in clients if not isinstance(client, GuestNode)]
        if len(clients) > 1:
            client = self._random.choice(clients)
            self._world.trace(f"{client.name} is killed")
            await client.kill()
            self._world.add_client()
