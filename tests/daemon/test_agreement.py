"""Processes agree on views: without sockets, each with its own disk."""

import errno
from pathlib import Path

import pytest
import trio

from gkfs.copy_messages import NOBODY, View, ViewVoteRequest
from gkfs.daemon import views as views_module
from gkfs.daemon.failover import Failover
from gkfs.daemon.session import Session
from gkfs.daemon.superblock import Rootdir
from gkfs.errors import GkfsError, os_error
from gkfs.hostfile import DaemonAddress, read
from gkfs.operations import COPY_BEGIN, COPY_DONE, COPY_PING
from tests.daemon.votes import ACCESS, BASE, FIRST, FSID, SHARD, SOMEBODY, Net, simulate
from tests.hosts import write_hosts

TAKEN_OVER = View(SHARD, 2, 1, NOBODY, 2)
ALONE = View(SHARD, 2, 0, NOBODY, 2)


def test_nobody_votes_for_another_process(tmp_path: Path) -> None:
    """Who took a shard over answers under the address of the process that had it, and has a vote of its own."""

    async def test(net: Net, nursery: trio.Nursery) -> None:
        request = ViewVoteRequest(2, SHARD, list(BASE[1:]), list(TAKEN_OVER[1:]))
        with pytest.raises(OSError, match="process 2 does not answer here") as caught:
            net.agreements[3].vote(SOMEBODY, request)
        assert caught.value.errno == errno.ESTALE
        net.elsewhere[2] = 0  # the primary would vote twice
        assert not await net.agreements[0].answers(2, BASE)
        net.down.add(1)
        assert not await net.agreements[0].agree(BASE, ALONE)

    simulate(tmp_path, test)


def test_who_may_have_lost_its_votes_gives_none(tmp_path: Path) -> None:
    async def test(net: Net, nursery: trio.Nursery) -> None:
        net.down.add(1)
        base = View(3, 1, 3, 1, 0)  # and process 0 has not answered for its own shard yet
        for views in (net.agreements[0].views, net.agreements[3].views):
            views._known[3] = base
        assert not await net.agreements[3].agree(base, View(3, 2, 3, NOBODY, 0))
        net.agreements[0].views.open(0)
        assert await net.agreements[3].agree(base, View(3, 2, 3, NOBODY, 0))

    simulate(tmp_path, test)


def test_a_primary_without_mirror_needs_nobody(tmp_path: Path) -> None:
    async def test(net: Net, nursery: trio.Nursery) -> None:
        mine = net.agreements[0]
        net.down.add(1)
        assert await mine.agree(BASE, ALONE)
        net.down.add(2)
        mirrored = View(SHARD, 3, 0, 3, 1)
        assert await mine.agree(ALONE, mirrored)
        assert mine.views.of(SHARD) == mirrored
        net.down.add(3)
        assert not await mine.agree(mirrored, View(SHARD, 4, 0, NOBODY, 1)), "with a mirror it does"

    simulate(tmp_path, test)


def test_a_vote_that_cannot_be_written_was_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(net: Net, nursery: trio.Nursery) -> None:
        mine = net.agreements[2]
        with monkeypatch.context() as full:
            full.setattr(views_module, "write_json", _full)
            with pytest.raises(OSError, match="full"):
                mine.views.vote(2, BASE, ALONE)
            with pytest.raises(OSError, match="full"):
                mine.views.learn(ALONE)
            assert not await net.agreements[1].agree(BASE, TAKEN_OVER)  # its own, too; it is logged
        assert mine.views.of(SHARD) == BASE
        assert mine.views.vote(2, BASE, TAKEN_OVER)
        assert await net.agreements[1].agree(BASE, TAKEN_OVER)

    simulate(tmp_path, test)


def test_a_witness_gives_no_mirror_its_vote_while_it_hears_the_primary(tmp_path: Path) -> None:
    async def test(net: Net, nursery: trio.Nursery) -> None:
        net.agreements[0].leading.add(SHARD)
        assert not await net.agreements[1].agree(BASE, TAKEN_OVER)
        assert net.agreements[2].views.voted(SHARD, 2) is None
        assert await net.agreements[0].agree(BASE, ALONE)
        await net.agreements[1].agree(BASE, TAKEN_OVER)
        assert net.agreements[1].views.of(SHARD) == ALONE

    simulate(tmp_path, test)


@pytest.mark.parametrize("silent", [True, False])
def test_a_witness_gives_a_mirror_its_vote_when_nobody_leads(silent: bool, tmp_path: Path) -> None:
    async def test(net: Net, nursery: trio.Nursery) -> None:
        if silent:
            net.agreements[0].leading.add(SHARD)
            net.down.add(0)
        assert await net.agreements[1].agree(BASE, TAKEN_OVER)
        net.agreements[0].leading.add(SHARD)
        net.down.clear()
        assert net.agreements[1].views.of(SHARD) == TAKEN_OVER
        assert await net.agreements[1].agree(TAKEN_OVER, View(SHARD, 3, 1, 3, 2)), (
            "it does not ask whom it replaced"
        )

    simulate(tmp_path, test)


def test_without_a_witness_the_mirror_gives_in_and_has_no_copy_any_more(tmp_path: Path) -> None:
    async def test(net: Net, nursery: trio.Nursery) -> None:
        mirroring = Mirroring(tmp_path, net, nursery)
        mirroring.views.open(1)
        net.agreements[0].leading.add(SHARD)
        net.down |= {0, 2}
        nursery.start_soon(mirroring.failover.run)
        await trio.sleep(6)
        assert mirroring.views.pending(SHARD) == TAKEN_OVER
        net.down |= {1}
        assert not await net.agreements[0].agree(BASE, ALONE)
        net.down -= {0, 1}
        copy = mirroring.copies.get(SHARD)
        assert copy is not None
        copy.tasks = 1
        assert not await net.agreements[0].agree(BASE, ALONE), "while it is written to"
        copy.tasks = 0
        assert await net.agreements[0].agree(BASE, ALONE)
        assert mirroring.views.voted(SHARD, 2) == ALONE
        assert mirroring.copies.get(SHARD) is None
        await trio.sleep(6)
        assert mirroring.started == []
        mirroring.close()

    simulate(tmp_path, test)


def test_votes_that_come_after_a_mirror_has_given_in_do_not_count(tmp_path: Path) -> None:
    async def test(net: Net, nursery: trio.Nursery) -> None:
        mirror, witness = net.agreements[1], net.agreements[2]

        async def slow(base: View, wanted: View) -> bool:
            assert witness.views.vote(2, base, wanted)
            await trio.sleep(1)
            return True

        mirror._has_votes = slow  # type: ignore[method-assign]
        nursery.start_soon(mirror.agree, BASE, TAKEN_OVER)
        await trio.sleep(0.5)
        assert await net.agreements[0].agree(BASE, ALONE)
        await trio.sleep(1)
        assert mirror.views.of(SHARD) == BASE, "it learns what was decided from others"
        net.down.add(0)
        assert not await witness.agree(BASE, TAKEN_OVER), "nobody but the mirror counts them"

    simulate(tmp_path, test)


def _full(*arguments: object) -> None:
    raise os_error(errno.ENOSPC, "full")


# --- a process that has a copy


class Mirroring:
    """Process 1, which has a complete copy of shard 0; *started* says what it has taken over."""

    def __init__(self, folder: Path, net: Net, nursery: trio.Nursery) -> None:
        self.rootdir = Rootdir(folder / "d", read(folder / "hosts"), 1)
        self.started: list[int] = []
        self.failures = 0
        make = Failover(1, self.rootdir, ACCESS, folder / "hosts", 4, nursery, self.start, direct_io=False)
        self.failover, self.copies, self.views = make, make._copies, make._views
        self.views.begin(FIRST)
        net.join(make._agreement)
        self.copies.begin(SOMEBODY, COPY_BEGIN.request(1, SHARD, 1, 0))
        self.copies.done(SOMEBODY, COPY_DONE.request(SHARD))

    async def start(self, shard: int, folder: Path) -> None:
        if self.failures:
            self.failures -= 1
            raise GkfsError("no")
        self.started.append(shard)

    def ping(self) -> None:
        self.copies.ping(SOMEBODY, COPY_PING.request(SHARD))

    def close(self) -> None:
        self.failover.close()
        self.rootdir.close()


def test_a_vote_to_take_over_is_brought_to_an_end_and_nothing_is_confirmed_any_more(tmp_path: Path) -> None:
    async def test(net: Net, nursery: trio.Nursery) -> None:
        mirroring = Mirroring(tmp_path, net, nursery)
        mirroring.failures = 2
        net.down |= {0, 2}
        nursery.start_soon(mirroring.failover.run)
        for _ in range(20):
            mirroring.ping()
            await trio.sleep(1)
        assert mirroring.views.pending(SHARD) is None
        await trio.sleep(6)
        assert mirroring.views.pending(SHARD) == TAKEN_OVER
        with pytest.raises(OSError, match="takes shard 0 over") as caught:
            mirroring.ping()
        assert caught.value.errno == errno.ESTALE
        copy = mirroring.copies.get(SHARD)
        assert copy is not None
        copy.heard_s = trio.current_time() + 1000  # as if it were heard again
        net.down.remove(2)
        await trio.sleep(10)
        assert mirroring.views.of(SHARD) == TAKEN_OVER
        assert mirroring.started == [SHARD], "and what could not be started is started again"
        with pytest.raises(OSError, match="needed"):
            mirroring.copies.begin(SOMEBODY, COPY_BEGIN.request(1, SHARD, 2, 0))
        mirroring.close()

    simulate(tmp_path, test)


def test_a_slow_vote_for_one_shard_does_not_make_others_wait(tmp_path: Path) -> None:
    async def test(net: Net, nursery: trio.Nursery) -> None:
        mirroring = Mirroring(tmp_path, net, nursery)
        other = View(3, 2, 3, 1, 2)
        mirroring.views.learn(other)
        later = Session(b"later", "copy")
        mirroring.copies.begin(later, COPY_BEGIN.request(1, 3, 1, 0))
        mirroring.copies.done(later, COPY_DONE.request(3))

        async def never(base: View, wanted: View) -> bool:
            if base.shard == SHARD:
                await trio.sleep_forever()
            await trio.lowlevel.checkpoint()
            return mirroring.views.learn(wanted)

        mirroring.failover._agreement.agree = never  # type: ignore[method-assign]
        nursery.start_soon(mirroring.failover.run)
        await trio.sleep(10)
        assert mirroring.started == [3]
        mirroring.close()

    simulate(tmp_path, test)


def test_who_is_not_in_the_hostfile_is_not_found(tmp_path: Path) -> None:
    async def test(net: Net, nursery: trio.Nursery) -> None:
        with pytest.raises(GkfsError, match="daemon 3 is not in the hostfile yet"):
            await net.agreements[0].locate(3)
        lines = [DaemonAddress(index, f"node{index % 2}", "tcp://127.0.0.1:1", "-") for index in range(3)]
        write_hosts(tmp_path / "hosts", FSID, 4, *lines)
        assert await net.agreements[0].elsewhere() == [1]

    simulate(tmp_path, test)
