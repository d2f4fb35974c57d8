"""The second half of the seeds, for another worker."""

import pytest

from tests.simulation.test_simulation import SEEDS_EACH, check_seeds


@pytest.mark.parametrize("first", range(501, 1001, SEEDS_EACH))
def test_no_promise_is_broken(first: int) -> None:
    check_seeds(range(first, first + SEEDS_EACH))
