"""A client whose daemon answers with anything: each call ends with a reply of its type or an errno of Linux."""

from tests.fuzz.client_under_fire import fuzz_client


def test_calls_end_well_whatever_the_daemon_answers() -> None:
    done, broken, _ = fuzz_client(10_000, seed=5)
    assert done == 10_000
    assert 0 < broken < 50  # else it is not frames, or all the same ones, that were looked at
