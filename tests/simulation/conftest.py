"""What is left of processes that were killed is thrown away within the test that killed them."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def thrown_away() -> Iterator[None]:
    """Coroutines of a killed process were never run to their end, some not at all: that is no mistake here."""
    yield
    gc.collect()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Python warns of coroutines that nobody has awaited."""
    for item in items:
        if item.path.parent.name == "simulation":
            item.add_marker(pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
