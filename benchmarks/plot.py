"""A picture of the results, as SVG: how many times as fast as the C passthrough and as the best rival ours is."""

import math
from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape

from benchmarks.results import Document, Rates
from benchmarks.systems.catalogue import PASSTHROUGH, RIVALS

COLOURS: Final = ("#1b6ca8", "#e08e0b", "#3a923a", "#9b59b6", "#c0392b", "#555555")
LABEL_WIDTH: Final = 200
PANEL_WIDTH: Final = 380
GAP: Final = 50
BAR_HEIGHT: Final = 7
ROW_GAP: Final = 6
HEAD_HEIGHT: Final = 84
CELL_HEIGHT: Final = 20
FINE_DECADES: Final = 3  # an axis of more has no room for 2 and 5 between 1 and 10
PANELS: Final = (
    ("against libfuse's C passthrough", (PASSTHROUGH,)),
    ("against the better of GlusterFS and MooseFS", RIVALS),
)


def svg(document: Document) -> str:
    """The picture. Rows or systems that were not measured have no bar."""
    rates = Rates(document)
    systems = sorted({name for row in document["medians"].values() for name in row if name.startswith("gkfs")})
    rows = [row for row in document["rows"] if any(rates.rate(row["key"], system) for system in systems)]
    ratios = [
        ratio
        for row in rows
        for system in systems
        for _, against in PANELS
        if (ratio := rates.ratio(row["key"], system, against))
    ]
    low = min(-1, math.floor(math.log10(min(ratios, default=1.0))))
    high = max(1, math.ceil(math.log10(max(ratios, default=1.0))))
    row_height = BAR_HEIGHT * len(systems) + ROW_GAP
    cells = len({row["cell"] for row in rows})
    bottom = HEAD_HEIGHT + cells * CELL_HEIGHT + len(rows) * row_height
    width = LABEL_WIDTH + len(PANELS) * (PANEL_WIDTH + GAP)
    size = f'width="{width}" height="{bottom + 24}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        f'<rect {size} fill="white"/>',
        *_legend(systems),
        *(line for index in range(len(PANELS)) for line in _axis(index, low, high, bottom)),
        *_bars(rates, rows, systems, (low, high), row_height),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _legend(systems: list[str]) -> Iterator[str]:
    yield _text(8, 18, "how many times as fast gkfs is (logarithmic; right of 1: faster)", "start", weight="bold")
    for index, system in enumerate(systems):
        left = 420 + index * 130
        yield f'<rect x="{left}" y="9" width="10" height="10" fill="{COLOURS[index % len(COLOURS)]}"/>'
        yield _text(left + 15, 18, system, "start")


def _text(x: float, y: float, text: str, anchor: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'


def _left(panel: int) -> int:
    return LABEL_WIDTH + panel * (PANEL_WIDTH + GAP)


def _position(ratio: float, low: int, high: int) -> float:
    """Pixels from the left edge of a panel."""
    return PANEL_WIDTH * (math.log10(ratio) - low) / (high - low)


def _axis(panel: int, low: int, high: int, bottom: int) -> Iterator[str]:
    left = _left(panel)
    yield _text(left + PANEL_WIDTH / 2, 44, PANELS[panel][0], "middle", weight="bold")
    for power in range(low, high + 1):
        for factor in (1, 2, 5):
            value = factor * 10.0**power
            if factor > 1 and (power == high or high - low > FINE_DECADES):
                continue
            x = left + _position(value, low, high)
            colour = "#333333" if value == 1 else "#dddddd"
            yield f'<line x1="{x:.1f}" y1="{HEAD_HEIGHT - 8}" x2="{x:.1f}" y2="{bottom}" stroke="{colour}"/>'
            yield _text(x, HEAD_HEIGHT - 12, f"{value:g}", "middle")


def _bars(
    rates: Rates, rows: list[dict[str, str]], systems: list[str], scale: tuple[int, int], row_height: int
) -> Iterator[str]:
    y, cell = HEAD_HEIGHT, None
    for row in rows:
        if row["cell"] != cell:
            cell = row["cell"]
            yield _text(8, y + 14, cell, "start", weight="bold")
            y += CELL_HEIGHT
        yield _text(LABEL_WIDTH - 8, y + row_height / 2, row["phase"], "end")
        for panel, (_, against) in enumerate(PANELS):
            one = _left(panel) + _position(1.0, *scale)
            for index, system in enumerate(systems):
                ratio = rates.ratio(row["key"], system, against)
                if not ratio:
                    continue
                end = _left(panel) + _position(ratio, *scale)
                title = f"{system} {row['key']}: {ratio:.2f} times"
                yield _bar(one, end, y + index * BAR_HEIGHT, index, title)
        y += row_height


def _bar(one: float, end: float, y: int, index: int, title: str) -> str:
    place = f'x="{min(one, end):.1f}" y="{y}" width="{abs(end - one):.1f}" height="{BAR_HEIGHT - 1}"'
    return f'<rect {place} fill="{COLOURS[index % len(COLOURS)]}"><title>{escape(title)}</title></rect>'
