"""A mount whose daemons answer with anything; `python -m tests.fuzz.run --target mount` does it for long."""

from pathlib import Path

import pytest

from tests.fuzz.mount_under_fire import fuzz_mount


@pytest.mark.limit_s(600)
def test_a_mount_bears_whatever_its_daemons_answer(tmp_path: Path) -> None:
    seen = fuzz_mount(tmp_path / "gkfs", 900, seed=3)
    print(seen)
    assert seen.calls == 900
    assert seen.failed > 100  # else nobody has lied
    assert seen.connections > 0
