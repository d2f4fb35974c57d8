"""Decoders raise nothing but what they say, whatever they are given: the kept corpus, hypothesis, mutations."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.run import fuzz_decoder
from tests.fuzz.targets import CORPUS, TARGETS, corpus

_CORPUS_MAX_BYTES = 200_000
_MUTATIONS = 1500

_KEPT = sorted(CORPUS.glob("*/*"))


@pytest.mark.parametrize("path", _KEPT, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_kept_input_raises_nothing(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


def test_every_target_has_a_corpus_and_all_of_it_is_small() -> None:
    assert {path.parent.name for path in _KEPT} == set(TARGETS)
    assert sum(path.stat().st_size for path in _KEPT) < _CORPUS_MAX_BYTES


@pytest.mark.parametrize("target", TARGETS)
def test_mutated_input_raises_nothing(target: str) -> None:
    assert fuzz_decoder(target, _MUTATIONS, seed=11) >= _MUTATIONS


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_input_spliced_of_kept_ones_raises_nothing(target: str, data: st.DataObject) -> None:
    known = st.sampled_from(corpus(target))
    first, second = data.draw(known), data.draw(known)
    cut, resumed = data.draw(st.integers(0, len(first))), data.draw(st.integers(0, len(second)))
    TARGETS[target](first[:cut] + data.draw(st.binary(max_size=8)) + second[resumed:])
