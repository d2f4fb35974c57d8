"""What who answers for a shard does about its mirror and witness; the others are in memory, the stream is none."""

import errno
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from gkfs.copy_messages import NOBODY, View
from gkfs.daemon.leading import Awake, Leader, Shard
from gkfs.daemon.superblock import Ending
from gkfs.errors import os_error
from gkfs.hostfile import DaemonAddress
from gkfs.limits import COPY_SILENCE_S
from tests.daemon.votes import ACCESS, BASE, FSID, SHARD, Net, simulate
from tests.hosts import write_hosts

ADDRESSES = [DaemonAddress(index, "node", f"tcp://127.0.0.1:{index + 1}", "-") for index in range(4)]


@dataclass
class FakeMirror:
    """Confirms whatever it is sent, but for *refusal*; *log* says what was asked of it, and what left."""

    counts: bool = False
    process: int = NOBODY
    is_decided: bool = False
    failure: OSError | None = None
    silent_s: float = 0.0
    refusal: OSError | None = None
    log: list[str] = field(default_factory=list)

    @property
    def is_attached(self) -> bool:
        return self.process != NOBODY

    def attach(self, process: int, *rest: object) -> None:
        self.detach()
        self.process, self.failure, self.silent_s = process, None, 0.0
        self.log.append(f"attach {process}")

    def detach(self) -> None:
        self.process, self.counts, self.is_decided = NOBODY, False, False

    def count(self) -> None:
        self.counts = True
        self.log.append("count")

    async def flushed(self, left_bytes: int = 1) -> None:
        await trio.lowlevel.checkpoint()
        self.log.append("flushed")

    async def begin(self, *epochs: int) -> None:
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal

    async def copy_all(self) -> None:
        await trio.lowlevel.checkpoint()

    def pages(self, *keys: bytes) -> list[dict[bytes, bytes]]:
        return []

    async def done(self) -> None:
        await trio.lowlevel.checkpoint()

    def open(self) -> None:
        self.log.append("open")

    def close(self) -> None:
        self.log.append("close")

    def forgive(self) -> None:
        self.silent_s = 0.0


class Lead:
    """Process 0 leads shard 0."""

    def __init__(self, net: Net, nursery: trio.Nursery, folder: Path, ending: Ending = Ending.KILLED) -> None:
        write_hosts(folder / "hosts", FSID, 4, *ADDRESSES)
        self.net = net
        self.agreement = net.agreements[0]
        self.views = self.agreement.views
        self.agreement.begun.set()
        self.mirror = FakeMirror()
        mirror: Any = self.mirror
        shard = Shard(SHARD, 2, 0, ending, mirror, mirror, mirror, ADDRESSES[0])
        self.leader = Leader(shard, self.agreement, ACCESS, Awake(), nursery)
        self.opened = False
        self._nursery = nursery

    def start(self) -> None:
        self._nursery.start_soon(self.leader.run, self._open)

    def _open(self) -> None:
        self.opened = True

    @property
    def view(self) -> View:
        view = self.views.of(SHARD)
        assert view is not None
        return view

    async def until_mirrored(self) -> None:
        """By process 1, at first."""
        self.start()
        await trio.sleep(COPY_SILENCE_S)
        assert self.mirror.is_decided
        self.mirror.log.clear()


def test_witness_that_is_gone_is_replaced_and_the_mirror_knows(tmp_path: Path) -> None:
    async def test(net: Net, nursery: trio.Nursery) -> None:
        lead = Lead(net, nursery, tmp_path)
        await lead.until_mirrored()
        assert lead.view == BASE
        net.elsewhere[2] = 3  # which has taken over what was process 2's, and answers there
        net.down.add(2)
        await trio.sleep(4 * COPY_SILENCE_S)
        assert lead.view == BASE._replace(number=2, witness=3)
        assert net.agreements[1].views.of(SHARD) == net.agreements[3].views.of(SHARD) == lead.view
        net.down.add(0)  # and then the primary is lost
        assert await net.agreements[1].agree(lead.view, View(SHARD, 3, 1, NOBODY, 3))

    simulate(tmp_path, test)


def test_a_vote_is_brought_to_an_end_also_when_the_mirror_is_heard_again(tmp_path: Path) -> None:
    async def test(net: Net, nursery: trio.Nursery) -> None:
        lead = Lead(net, nursery, tmp_path)
        await lead.until_mirrored()
        net.down |= {1, 2}
        lead.mirror.silent_s = 2 * COPY_SILENCE_S
        await trio.sleep(COPY_SILENCE_S)
        alone = BASE._replace(number=2, mirror=NOBODY)
        assert lead.views.pending(SHARD) == alone
        assert lead.view == BASE
        lead.mirror.silent_s = 0.0
        net.down.remove(2)
        await trio.sleep(COPY_SILENCE_S)
        assert lead.views.pending(SHARD) is None
        assert lead.view.number > 2

    simulate(tmp_path, test)


def test_what_left_before_it_counted_is_at_the_mirror_before_that_is_one(tmp_path: Path) -> None:
    async def test(net: Net, nursery: trio.Nursery) -> None:
        lead = Lead(net, nursery, tmp_path)
        await lead.until_mirrored()
        net.deaf.add(1)
        lead.mirror.failure = os_error(errno.ESTALE, "gone")
        await trio.sleep(COPY_SILENCE_S)
        assert lead.view == View(SHARD, 3, 0, 1, 2)
        assert lead.mirror.log == ["attach 1", "count", "flushed"]
        assert (lead.mirror.counts, lead.mirror.is_decided) == (True, False), "it does not know"
        net.deaf.remove(1)
        await trio.sleep(COPY_SILENCE_S)
        assert (lead.mirror.counts, lead.mirror.is_decided) == (True, True)
        assert net.agreements[1].views.of(SHARD) == lead.view

    simulate(tmp_path, test)


def test_a_copy_at_another_process_than_the_views_mirror_is_given_up(tmp_path: Path) -> None:
    async def test(net: Net, nursery: trio.Nursery) -> None:
        lead = Lead(net, nursery, tmp_path)
        alone = BASE._replace(number=2, mirror=NOBODY)
        lead.views.open(SHARD)
        lead.views.learn(alone)
        lead.start()
        agree, other = lead.agreement.agree, View(SHARD, 3, 0, 3, 2)
        attached: list[int] = []

        async def agree_on_another(base: View, wanted: View) -> bool:
            if base == alone:
                await trio.lowlevel.checkpoint()
                return lead.views.learn(other)
            attached.append(lead.mirror.process)
            return await agree(base, wanted)

        lead.agreement.agree = agree_on_another  # type: ignore[method-assign]
        await trio.sleep(3 * COPY_SILENCE_S)
        assert attached == [NOBODY, 1]
        assert lead.view.number == 5
        assert lead.view.mirror == lead.mirror.process
        assert [entry for entry in lead.mirror.log if "attach" in entry] == ["attach 1", "attach 1"]

    simulate(tmp_path, test)


def test_after_a_power_failure_the_mirror_may_take_over_first(tmp_path: Path) -> None:
    async def test(net: Net, nursery: trio.Nursery) -> None:
        lead = Lead(net, nursery, tmp_path, Ending.POWER)
        lead.views.open(SHARD)
        lead.start()
        await trio.sleep(COPY_SILENCE_S)
        assert not lead.opened
        assert await net.agreements[1].agree(BASE, View(SHARD, 2, 1, NOBODY, 2))
        await trio.sleep(2 * COPY_SILENCE_S)
        assert not lead.opened
        assert lead.view.primary == 1
        assert lead.mirror.log == ["close"]

    simulate(tmp_path, test)


def test_after_a_power_failure_it_goes_on_if_the_mirror_does_not(tmp_path: Path) -> None:
    async def test(net: Net, nursery: trio.Nursery) -> None:
        lead = Lead(net, nursery, tmp_path, Ending.POWER)
        lead.views.open(SHARD)
        lead.start()
        await trio.sleep(3 * COPY_SILENCE_S)
        assert lead.opened
        assert lead.view == View(SHARD, 3, 0, 1, 2)

    simulate(tmp_path, test)


def test_who_has_lost_what_there_is_a_copy_of_does_not_answer(tmp_path: Path) -> None:
    async def test(net: Net, nursery: trio.Nursery) -> None:
        lead = Lead(net, nursery, tmp_path)
        lead.mirror.refusal = os_error(errno.EEXIST, "needed")
        lead.start()
        await trio.sleep(3 * COPY_SILENCE_S)
        assert not lead.opened
        assert lead.view == BASE
        assert lead.mirror.log == ["attach 1", "close"]

    simulate(tmp_path, test)


def test_who_has_lost_what_was_elsewhere_by_now_does_not_answer(tmp_path: Path) -> None:
    """The first mirror has no copy any more, and would take one."""

    async def test(net: Net, nursery: trio.Nursery) -> None:
        lead = Lead(net, nursery, tmp_path)
        net.agreements[2].views.learn(BASE._replace(number=3, mirror=3))
        lead.start()
        await trio.sleep(3 * COPY_SILENCE_S)
        assert not lead.opened
        assert lead.mirror.log == ["close"]

    simulate(tmp_path, test)
