"""What the report computes from samples: rates, medians, ratios, verdicts; and where it writes them."""

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from benchmarks import plot, report, results, tables, targets
from benchmarks.results import Document, Rates
from benchmarks.targets import Target
from gkfs.errors import ExitStatus, GkfsError

ROW = "one-1/create"


def sample(operations: int, duration_s: float, requests: int = 0, batches: int = 0) -> dict[str, Any]:
    """Client and daemon spend 10 and 30 microseconds for each operation."""
    return {
        "operations": operations,
        "duration_ns": round(duration_s * 1e9),
        "cpu_ns": {"client": operations * 10_000, "daemon": operations * 30_000},
        "resident_bytes": {"client": 50 << 20, "daemon": 100 << 20},
        "counters": {"requests": requests, "batches": batches} if requests else {},
    }


def document(**rates: float) -> Document:
    """One row, for each system three rounds around the given rate."""
    samples = {
        ROW: {
            name.replace("_", "-"): [sample(1000, 1000 / (rate * factor), 4000, 2000) for factor in (0.5, 1, 9)]
            for name, rate in rates.items()
        }
    }
    systems: dict[str, Any] = {
        name: {"title": name, "version": "1", "available": True, "reason": None, "lacks": {}}
        for name in samples[ROW]
    }
    return {
        "format": results.FORMAT,
        "begun": "2026-01-01T00:00:00+00:00",
        "seconds": 60.0,
        "machine": {
            "system": "Debian",
            "kernel": "6",
            "processors": 2,
            "model": "a processor",
            "memory_bytes": 1 << 30,
            "file_system": "ext4",
            "disk": "/dev/a",
            "python": "3",
            "fio": "fio-3",
            "load_average": 0.5,
        },
        "scale": {"name": "default", "rounds": 3},
        "systems": systems,
        "rows": [
            {"key": ROW, "group": "metadata", "cell": "empty files", "phase": "create", "unit": "files/s"},
        ],
        "samples": samples,
        "medians": results.medians(samples),
    }


def test_the_median_round_counts_not_the_mean() -> None:
    assert Rates(document(moosefs=2000.0)).rate(ROW, "moosefs") == pytest.approx(2000.0)


def test_processor_time_and_requests_are_per_operation() -> None:
    figures = Rates(document(gkfs_1=500.0)).figures(ROW, "gkfs-1")
    assert figures is not None
    assert figures.cpu_us == {"client": 10.0, "daemon": 30.0}
    assert (figures.requests, figures.batch) == (4.0, 2.0)


def test_a_system_that_keeps_no_counters_has_no_requests() -> None:
    figures = results.figures([sample(10, 1.0)])
    assert (figures.requests, figures.batch) == (None, None)


def test_a_ratio_is_against_the_best_of_those_measured() -> None:
    rates = Rates(document(gkfs_1=3000.0, moosefs=1500.0, passthrough=6000.0))
    assert rates.ratio(ROW, "gkfs-1", ("glusterfs-1", "moosefs")) == pytest.approx(2.0)
    assert rates.ratio(ROW, "gkfs-1", ("moosefs", "passthrough")) == pytest.approx(0.5)
    assert rates.ratio(ROW, "gkfs-1", ("glusterfs-1",)) is None
    assert rates.ratio(ROW, "gkfs-2", ("moosefs",)) is None


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        (Target("ratio", ROW, "gkfs-1", 2.0, ("moosefs",)), "reached"),
        (Target("ratio", ROW, "gkfs-1", 2.01, ("moosefs",)), "missed"),
        (Target("ratio", ROW, "gkfs-1", 2.0, ("glusterfs-1",)), "not measured"),
        (Target("rate", ROW, "gkfs-1", 3000.0), "reached"),
        (Target("rate", ROW, "gkfs-1", 3001.0), "missed"),
        (Target("cpu_us", ROW, "gkfs-1", 40.0, roles=("client", "daemon")), "reached"),
        (Target("cpu_us", ROW, "gkfs-1", 39.0, roles=("client", "daemon")), "missed"),
        (Target("cpu_us", ROW, "gkfs-1", 10.0, roles=("client",)), "reached"),
        (Target("requests", ROW, "gkfs-1", 3.9), "missed"),
        (Target("requests", ROW, "gkfs-1", 4.0), "reached"),
    ],
)
def test_a_target_is_reached_at_its_bound(target: Target, verdict: str) -> None:
    rates = Rates(document(gkfs_1=3000.0, moosefs=1500.0))
    assert targets.judge(target, rates).verdict == verdict


def test_every_target_names_a_row_that_is_measured() -> None:
    from benchmarks.workloads import SCALES, cells

    rows = {f"{cell.key}/{phase.key}" for cell in cells(SCALES["default"], Path()) for phase in cell.phases}
    assert {target.row for target in targets.all_targets()} <= rows


@pytest.mark.parametrize(
    ("value", "shown"), [(0.126, "0.13"), (12.34, "12.3"), (123.4, "123"), (1234567.0, "1,234,567")]
)
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    assert tables.number(value) == shown


def test_what_was_measured_later_replaces_and_adds() -> None:
    merged = report.merge([document(gkfs_1=1000.0, moosefs=500.0), document(gkfs_1=2000.0, gkfs_2=700.0)])
    rates = Rates(merged)
    assert [rates.rate(ROW, name) for name in ("gkfs-1", "gkfs-2", "moosefs")] == pytest.approx([2000, 700, 500])
    assert set(merged["systems"]) == {"gkfs-1", "gkfs-2", "moosefs"}
    assert len(merged["rows"]) == 1


def test_the_report_replaces_only_what_is_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    for _ in range(2):
        report.write_into(document(gkfs_1=1000.0), page)
    text = page.read_text()
    assert text.startswith(f"before\n{report.BEGIN}")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "old" not in text
    assert "| create, files/s | 1,000 |" in text
    assert "(page.svg)" in text


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text\n")
    with pytest.raises(GkfsError, match="no markers") as caught:
        report.write_into(document(gkfs_1=1000.0), page)
    assert caught.value.status == ExitStatus.USAGE
    assert page.read_text() == "text\n"


def test_bars_are_as_long_as_the_logarithm_of_the_ratio() -> None:
    picture = ElementTree.fromstring(plot.svg(document(gkfs_1=4000.0, gkfs_2=2000.0, passthrough=1000.0)))
    bars = {}
    for rectangle in picture.iter("{http://www.w3.org/2000/svg}rect"):
        title = rectangle.findtext("{http://www.w3.org/2000/svg}title")
        if title is not None:
            bars[title] = float(rectangle.attrib["width"])
    assert set(bars) == {f"gkfs-1 {ROW}: 4.00 times", f"gkfs-2 {ROW}: 2.00 times"}
    ratio = bars[f"gkfs-1 {ROW}: 4.00 times"] / bars[f"gkfs-2 {ROW}: 2.00 times"]
    assert math.isclose(ratio, 2.0, rel_tol=0.01)


def test_results_are_read_back_and_anything_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    written = document(gkfs_1=1000.0)
    results.write(written, path)
    assert results.read(path) == json.loads(json.dumps(written))
    for text in ("{", "[]", '{"format": 0}'):
        path.write_text(text)
        with pytest.raises(GkfsError) as caught:
            results.read(path)
        assert caught.value.status == ExitStatus.USAGE
