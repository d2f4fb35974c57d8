"""Spinning before sleeping: how long, and when it is left out."""

import os
import select
import time
from collections.abc import Iterator

import pytest

from gkfs.limits import SPINS_IN_VAIN, SPINS_LEFT_OUT
from gkfs.spin import Spinner

SPIN_S = 0.001


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_spinning_is_left_out_while_it_does_not_pay(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    spinner = Spinner(SPIN_S)
    poller = select.poll()
    poller.register(pipe[0], select.POLLIN)

    def spin() -> tuple[bool, bool]:
        """Whether it found an event, and whether it looked at all."""
        begun_s = time.perf_counter()
        found = bool(spinner.look(lambda: poller.poll(0)))
        return found, found or time.perf_counter() - begun_s >= SPIN_S

    assert [spin() for _ in range(SPINS_IN_VAIN)] == [(False, True)] * SPINS_IN_VAIN
    for _ in range(2):
        assert [spin() for _ in range(SPINS_LEFT_OUT)] == [(False, False)] * SPINS_LEFT_OUT
        assert spin() == (False, True)  # tried once more
    for _ in range(SPINS_LEFT_OUT):
        spin()
    os.write(pipe[1], b"x")
    assert spin() == (True, True)
    assert spin() == (True, True)  # it pays again


def test_on_one_processor_nobody_spins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    begun_s = time.perf_counter()
    assert Spinner(10.0).look(list) == []
    assert time.perf_counter() - begun_s < 5
