"""The simulation finds what it is there to find."""

import pytest

from tests.simulation.planted import PLANTED
from tests.simulation.world import simulate

SEEDS = range(1, 1001)


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bug_is_found_within_a_thousand_seeds(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTED[bug](monkeypatch)
    found = next((report for report in map(simulate, SEEDS) if report.violations), None)
    assert found is not None
    print(f"{bug}: seed {found.seed}: {found.violations[0]}")
