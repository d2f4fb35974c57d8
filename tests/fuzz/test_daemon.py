"""A real daemon under fire over its real sockets: a short run of what `tests.fuzz.run` does for long."""

import pytest

from tests.fuzz.run import fuzz_daemon


def test_frames_of_strangers_change_nothing_that_is_stored() -> None:
    sent, _ = fuzz_daemon("stranger", 20_000, seed=1)
    assert sent >= 20_000


def test_after_frames_of_a_client_fsck_finds_only_what_clients_may_do() -> None:
    sent, _ = fuzz_daemon("client", 12_000, seed=2)
    assert sent >= 12_000


@pytest.mark.parametrize("role", ["peer", "control"])
def test_after_frames_of_other_roles_the_daemon_serves(role: str) -> None:
    sent, _ = fuzz_daemon(role, 6_000, seed=3)
    assert sent >= 6_000
