"""What the project wants to show, computed from the results: reached, missed or not measured."""

from typing import Final, NamedTuple

from benchmarks.results import Rates
from benchmarks.systems.catalogue import PASSTHROUGH, RIVALS

SEPARATE: Final = "gkfs-1"
EMBEDDED: Final = "gkfs-embedded"
UNMERGED: Final = "gkfs-1-unmerged"
MOOSEFS: Final = ("moosefs",)
GLUSTERFS: Final = ("glusterfs-1",)
NAMES: Final[dict[tuple[str, ...], str]] = {
    (PASSTHROUGH,): "C passthrough",
    MOOSEFS: "MooseFS",
    GLUSTERFS: "GlusterFS",
    (UNMERGED,): "unmerged",
}


class Target(NamedTuple):
    """*kind*: ratio (rate over the best of *against*), rate, requests (per operation) or cpu_us (of *roles*)."""

    kind: str
    row: str
    system: str
    bound: float
    against: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()

    @property
    def at_most(self) -> bool:
        """Whether less is better."""
        return self.kind in ("cpu_us", "requests")


class Verdict(NamedTuple):
    """One line of the report."""

    what: str
    wanted: str
    measured: str
    verdict: str  # reached, missed, not measured


def _ratios(system: str, rows: tuple[str, ...], bound: float, against: tuple[str, ...]) -> list[Target]:
    return [Target("ratio", row, system, bound, against) for row in rows]


def _of_both(system: str) -> list[Target]:
    """What is wanted wherever the daemon runs."""
    data = ("sequential/write", "sequential/read")
    return [
        *_ratios(system, ("small-1/write", "small-1/read"), 3.0, RIVALS),
        *_ratios(system, ("small-1/stat", "small-1/remove"), 1.3, RIVALS),
        *_ratios(system, data, 0.8, (PASSTHROUGH,)),
        *_ratios(system, data, 1.5, RIVALS),
        *_ratios(system, ("file/random-write", "file/random-read"), 1.5, RIVALS),
    ]


def all_targets() -> list[Target]:
    """In the order of the report."""
    empty = tuple(f"one-{count}/{phase}" for count in (1, 2) for phase in ("create", "stat", "open", "remove"))
    passed = tuple(row for row in empty if not row.endswith("stat"))
    created = ("small-1/write", "small-1/read")
    merged = tuple(f"small-4/{phase}" for phase in ("write", "read", "stat", "remove"))
    alone = tuple(f"small-1/{phase}" for phase in ("write", "read", "stat", "remove"))
    through = (PASSTHROUGH,)
    return [
        Target("cpu_us", "one-1/xattr", SEPARATE, 25.0, roles=("client",)),
        Target("cpu_us", "one-1/stat", SEPARATE, 75.0, roles=("client", "daemon")),
        *_ratios(EMBEDDED, empty, 2.0, MOOSEFS),
        *_ratios(EMBEDDED, empty, 5.0, GLUSTERFS),
        *_ratios(EMBEDDED, passed, 1.0, through),
        *_ratios(SEPARATE, empty, 1.2, MOOSEFS),
        *_ratios(EMBEDDED, created, 1.0, through),
        *(target for system in (SEPARATE, EMBEDDED) for target in _of_both(system)),
        *_ratios(SEPARATE, merged, 1.3, (UNMERGED,)),
        *_ratios(SEPARATE, alone, 1.0, (UNMERGED,)),
        Target("rate", "one-1/list", SEPARATE, 50_000.0),
        Target("requests", "one-1/list", SEPARATE, 0.1),
    ]


def judge(target: Target, rates: Rates) -> Verdict:
    """Compare one target with the results."""
    value = _value(target, rates)
    what = f"{target.system}, {target.row}"
    sign = "≤" if target.at_most else "≥"
    unit = {"cpu_us": " µs CPU", "requests": " RPCs per entry", "rate": "/s", "ratio": " times"}[target.kind]
    wanted = f"{sign} {target.bound:,g}{unit}"
    if target.kind == "ratio":
        wanted += f" {NAMES.get(target.against, 'the better of MooseFS and GlusterFS')}"
    elif target.kind == "cpu_us":
        wanted += f" of {' and '.join(target.roles)}"
    if value is None:
        return Verdict(what, wanted, "-", "not measured")
    reached = value <= target.bound if target.at_most else value >= target.bound
    shown = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return Verdict(what, wanted, shown, "reached" if reached else "missed")


def _value(target: Target, rates: Rates) -> float | None:
    if target.kind == "ratio":
        return rates.ratio(target.row, target.system, target.against)
    if target.kind == "rate":
        return rates.rate(target.row, target.system)
    found = rates.figures(target.row, target.system)
    if found is None:
        return None
    if target.kind == "requests":
        return found.requests
    return sum(found.cpu_us[role] for role in target.roles)


def verdicts(rates: Rates) -> list[Verdict]:
    """Of all targets."""
    return [judge(target, rates) for target in all_targets()]
