"""Spinning before sleeping: how long, and when it is left out."""

import os
import time
from types import SimpleNamespace
from typing import Final

import pytest

from gkfs import spin
from gkfs.limits import SPINS_IN_VAIN, SPINS_LEFT_OUT
from gkfs.spin import Spinner

_SPIN_S: Final = 0.001
_LOOK_S: Final = 1e-6


class _Source:
    """Something to look for, and the time that looking takes."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.looks = 0
        self.looks_until_event = 0  # 0: it does not come
        self.others_s = 0.0  # for how long another process runs that is let

    def look(self) -> list[int]:
        self.looks += 1
        self.now_s += _LOOK_S
        return [1] if self.looks == self.looks_until_event else []

    def let_others_run(self) -> None:
        self.now_s += self.others_s


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> _Source:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    made = _Source()
    monkeypatch.setattr(spin, "time", SimpleNamespace(perf_counter=lambda: made.now_s))
    monkeypatch.setattr(spin, "_yield", made.let_others_run)
    return made


def _spin(spinner: Spinner, source: _Source) -> tuple[bool, bool]:
    """Whether it found an event, and whether it looked at all."""
    source.looks = 0
    found = bool(spinner.look(source.look))
    assert found or not source.looks or source.looks * _LOOK_S == pytest.approx(_SPIN_S, rel=0.01)
    return found, source.looks > 0


def test_spinning_is_left_out_while_it_does_not_pay(source: _Source) -> None:
    spinner = Spinner(_SPIN_S)
    assert [_spin(spinner, source) for _ in range(SPINS_IN_VAIN)] == [(False, True)] * SPINS_IN_VAIN
    for _ in range(2):
        assert [_spin(spinner, source) for _ in range(SPINS_LEFT_OUT)] == [(False, False)] * SPINS_LEFT_OUT
        assert _spin(spinner, source) == (False, True)  # tried once more
    for _ in range(SPINS_LEFT_OUT):
        _spin(spinner, source)
    source.looks_until_event = 7
    assert _spin(spinner, source) == (True, True)
    assert _spin(spinner, source) == (True, True)  # it pays again


def test_what_others_have_done_meanwhile_is_seen_however_long_it_took(source: _Source) -> None:
    spinner = Spinner(_SPIN_S)
    source.others_s, source.looks_until_event = 2 * _SPIN_S, 2
    for _ in range(3 * SPINS_IN_VAIN):
        assert _spin(spinner, source) == (True, True)


def test_on_one_processor_nobody_spins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    begun_s = time.perf_counter()
    assert Spinner(10.0).look(list) == []
    assert time.perf_counter() - begun_s < 5
