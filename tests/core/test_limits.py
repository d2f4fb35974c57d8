"""docs/limits.md and the constants say the same."""

import re
from pathlib import Path

from gkfs import limits

_PAGE = Path(__file__).parents[2] / "docs" / "limits.md"
_ROW = re.compile(r"^\| `([A-Z_]+)` \| ([0-9.]+) \|", re.MULTILINE)


def test_every_documented_limit_has_its_documented_value() -> None:
    rows = _ROW.findall(_PAGE.read_text())
    assert len(rows) > 40
    assert {name: str(getattr(limits, name)) for name, _ in rows} == dict(rows)
