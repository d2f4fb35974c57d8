"""The results of a run: the JSON document, and what is computed from it."""

import json
import statistics
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.measure import Sample
from gkfs.errors import ExitStatus, GkfsError

FORMAT: Final = 1

Document = dict[str, Any]
"""
    format      FORMAT
    begun       when, ISO 8601;  seconds: how long it took
    machine     kernel, processors, model, memory_bytes, disk, file_system, python
    scale       name and numbers of workloads.Scale
    systems     name -> title, version, available, reason (why it is not, or why it failed), lacks
    rows        [{key, group, cell, phase, unit}] in the order of the report
    samples     row key -> system -> [sample of round 0, ...]
    medians     row key -> system -> the fields of Figures
"""


class Figures(NamedTuple):
    """Medians over the rounds of one row and system."""

    rate: float  # operations per second; for 1 MiB operations that is MiB/s
    operations: float  # in one round
    cpu_us: dict[str, float]  # per operation, by role
    requests: float | None  # RPCs per operation that daemons have received
    batch: float | None  # requests per batch
    resident_bytes: dict[str, float]


def figures(samples: list[Sample]) -> Figures:
    """Medians of what each round gives; ratios are taken within a round."""
    roles = samples[0]["cpu_ns"]
    counted = [sample for sample in samples if "requests" in sample["counters"]]
    batched = [sample["counters"] for sample in counted if sample["counters"]["batches"] > 0]
    middle = statistics.median
    return Figures(
        rate=middle(rate(sample) for sample in samples),
        operations=middle(sample["operations"] for sample in samples),
        cpu_us={
            role: middle(s["cpu_ns"][role] / 1e3 / max(1, s["operations"]) for s in samples) for role in roles
        },
        requests=middle(s["counters"]["requests"] / max(1, s["operations"]) for s in counted) if counted else None,
        batch=middle(counters["requests"] / counters["batches"] for counters in batched) if batched else None,
        resident_bytes={role: middle(sample["resident_bytes"][role] for sample in samples) for role in roles},
    )


def rate(sample: Sample) -> float:
    """Operations per second."""
    return float(sample["operations"] * 1e9 / max(1, sample["duration_ns"]))


def medians(samples: dict[str, dict[str, list[Sample]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Figures of all rows and systems, for the document."""
    return {
        row: {system: figures(rounds)._asdict() for system, rounds in systems.items() if rounds}
        for row, systems in samples.items()
    }


def write(document: Document, path: Path) -> None:
    """Write the document. Raises GkfsError."""
    try:
        path.write_text(json.dumps(document, indent=1) + "\n")
    except OSError as error:
        raise GkfsError(f"{path}: {error.strerror}", ExitStatus.USAGE) from None


def read(path: Path) -> Document:
    """Read it back. Raises GkfsError when it is none."""
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise GkfsError(f"{path}: {error.strerror}", ExitStatus.USAGE) from None
    except ValueError as error:
        raise GkfsError(f"{path} is not JSON: {error}", ExitStatus.USAGE) from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise GkfsError(f"{path} holds no results of benchmarks.matrix, format {FORMAT}", ExitStatus.USAGE)
    return document


class Rates:
    """Looks up medians of a document."""

    def __init__(self, document: Document) -> None:
        self._medians = document["medians"]

    def figures(self, row: str, system: str) -> Figures | None:
        """None when it was not measured."""
        found = self._medians.get(row, {}).get(system)
        return None if found is None else Figures(**found)

    def rate(self, row: str, system: str) -> float | None:
        """Operations per second, None when they were not measured."""
        found = self.figures(row, system)
        return None if found is None else found.rate

    def best(self, row: str, systems: tuple[str, ...]) -> float | None:
        """The highest rate of those systems that were measured, None when none was."""
        return max((found for system in systems if (found := self.rate(row, system)) is not None), default=None)

    def ratio(self, row: str, system: str, against: tuple[str, ...]) -> float | None:
        """The rate of *system* over the best of *against*, None when either is missing."""
        mine, others = self.rate(row, system), self.best(row, against)
        return None if mine is None or not others else mine / others
