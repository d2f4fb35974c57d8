"""Simulated runs in which clients are in the processes of daemons, and end with them."""

from typing import Any

import pytest

from gkfs.daemon.local import LocalClient
from tests.simulation.world import simulate

SEEDS_EACH = 50


@pytest.mark.parametrize("first", range(1, 101, SEEDS_EACH))
def test_no_promise_is_broken(first: int) -> None:
    for seed in range(first, first + SEEDS_EACH):
        report = simulate(seed, guests=True, checksums=seed % 2 == 0)
        assert not report.violations, str(report)


def test_answers_before_the_commit_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = LocalClient.call

    def too_soon(client: LocalClient, *arguments: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client._store, "commit", lambda: None)  # the next one's takes it along
            return original(client, *arguments)

    monkeypatch.setattr(LocalClient, "call", too_soon)
    found = next((report for seed in range(1, 1001) if (report := simulate(seed, guests=True)).violations), None)
    assert found is not None
    print(f"seed {found.seed}: {found.violations[0]}")


def test_a_seed_says_all_of_a_run() -> None:
    assert simulate(13, guests=True).digest == simulate(13, guests=True).digest
