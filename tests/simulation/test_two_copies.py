"""Simulated runs with `--replicas 2`: a daemon is lost, cut off or started anew, which costs time only."""

from collections import Counter

import pytest

from gkfs.copy_messages import View
from gkfs.daemon.agreement import Agreement
from gkfs.daemon.mirror import Mirror, Target
from gkfs.messages import Buffer
from tests.simulation.world import simulate

SEEDS_EACH = 40


@pytest.mark.parametrize("first", range(1, 81, SEEDS_EACH))
def test_no_promise_is_broken_when_a_daemon_is_away(first: int) -> None:
    counts: Counter[str] = Counter()
    for seed in range(first, first + SEEDS_EACH):
        report = simulate(seed, replicas=2, guests=seed % 3 == 0, checksums=seed % 2 == 0)
        assert not report.violations, str(report)
        counts += report.counts
    for how in ("lost", "cut off", "restarted"):
        assert counts[f"daemons {how}"] > 1


def test_replies_that_leave_before_the_mirror_has_what_they_tell_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_soon(mirror: Mirror, target: Target, pieces: list[Buffer]) -> None:
        target.send(pieces)

    monkeypatch.setattr(Mirror, "send", too_soon)
    assert_found()


def test_a_primary_that_asks_nobody_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def without_asking(agreement: Agreement, base: View, wanted: View) -> bool:
        return True

    monkeypatch.setattr(Agreement, "_has_votes", without_asking)
    assert_found()


def assert_found() -> None:
    found = next((report for seed in range(1, 1001) if (report := simulate(seed, replicas=2)).violations), None)
    assert found is not None
    print(f"seed {found.seed}: {found.violations[0]}")


def test_a_seed_says_all_of_a_run() -> None:
    assert simulate(13, replicas=2).digest == simulate(13, replicas=2).digest
