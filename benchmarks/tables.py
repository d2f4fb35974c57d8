"""The tables of a report, once for the terminal and for Markdown."""

from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.results import Document, Figures, Rates
from benchmarks.systems.catalogue import CATALOGUE
from benchmarks.systems.ours import SAFETY
from benchmarks.targets import verdicts

MIB = 1 << 20


class Table(NamedTuple):
    """*rows*: cells of text; a row of one cell is a heading within the table."""

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]
    numeric: bool = True  # all columns but the first


def number(value: float) -> str:
    """With three digits that count, and thousands apart."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _systems(document: Document) -> list[str]:
    measured = {system for row in document["medians"].values() for system in row}
    return [name for name in CATALOGUE if name in measured] + sorted(measured - CATALOGUE.keys())


def _by_row(document: Document, title: str, systems: list[str], show: Callable[[Figures], str]) -> Table:
    rates, cell = Rates(document), None
    rows: list[tuple[str, ...]] = []
    for row in document["rows"]:
        found = [rates.figures(row["key"], system) for system in systems]
        values = ["" if figures is None else show(figures) for figures in found]
        if not any(values):
            continue
        if row["cell"] != cell:
            cell = row["cell"]
            rows.append((f"{row['key'].partition('/')[0]}: {cell}",))
        rows.append((f"{row['phase']}, {row['unit']}", *values))
    return Table(title, ("", *systems), rows)


def rate_table(document: Document) -> Table:
    """Operations per second."""
    return _by_row(document, "Rates", _systems(document), lambda figures: number(figures.rate))


def cpu_table(document: Document) -> Table:
    """Microseconds per operation, client + daemon."""

    def show(figures: Figures) -> str:
        return " + ".join(number(figures.cpu_us[role]) for role in ("client", "daemon") if role in figures.cpu_us)

    title = "CPU per operation, µs of client + daemon"
    return _by_row(document, title, [name for name in _systems(document) if name != "disk"], show)


def request_table(document: Document) -> Table:
    """RPCs per operation, and how many came together."""

    def show(figures: Figures) -> str:
        if figures.requests is None:
            return ""
        batch = f" in {number(figures.batch)}s" if figures.batch is not None else ""
        return f"{figures.requests:.2f}{batch}"

    title = "RPCs per operation, and requests in a batch"
    return _by_row(document, title, [name for name in _systems(document) if name.startswith("gkfs")], show)


def safety_table(document: Document) -> Table:
    """Rate, and processor time, of each variant over that of what it differs from."""
    rates = Rates(document)
    systems = [name for name in _systems(document) if name in SAFETY]
    rows: list[tuple[str, ...]] = []
    for row in document["rows"]:
        values: list[str] = []
        for system in systems:
            found, plain = rates.figures(row["key"], system), rates.figures(row["key"], SAFETY[system])
            values.append("" if found is None or plain is None else _over(found, plain))
        if any(values):
            rows.append((row["key"], *values))
    return Table("Safety: rate and (processor time), times those without", ("", *systems), rows)


def _over(found: Figures, plain: Figures) -> str:
    rate = f"{found.rate / plain.rate:.2f}" if plain.rate else "-"
    cpu, cpu_plain = sum(found.cpu_us.values()), sum(plain.cpu_us.values())
    return f"{rate} ({cpu / cpu_plain:.2f})" if cpu_plain else rate


def memory_table(document: Document) -> Table:
    """What processes have in use after the rows that are about it, else after the last one."""
    rows: list[tuple[str, ...]] = []
    systems = [name for name in _systems(document) if name != "disk"]
    about = [row["key"] for row in document["rows"] if row["key"].startswith("million/")]
    for row in about or [row["key"] for row in document["rows"][-1:]]:
        found = [Rates(document).figures(row, system) for system in systems]
        for role in ("client", "daemon"):
            values = ["" if f is None or role not in f.resident_bytes else f.resident_bytes[role] for f in found]
            rows.append(
                (f"{row}, {role}", *(number(v / MIB) if isinstance(v, float | int) else "" for v in values))
            )
    return Table("Memory in use, MiB", ("after", *systems), rows)


def target_table(document: Document) -> Table:
    """Targets and whether they are reached."""
    found = verdicts(Rates(document))
    return Table(
        "Targets", ("system, row", "wanted", "measured", ""), [tuple(verdict) for verdict in found], False
    )


def system_table(document: Document) -> Table:
    """What was measured, and what could not be had."""
    entries: dict[str, dict[str, Any]] = document["systems"]
    rows: list[tuple[str, ...]] = [
        (name, entry["title"], entry["version"] or "-", _state(entry)) for name, entry in entries.items()
    ]
    return Table("Systems", ("name", "what", "version", ""), rows, False)


def _state(entry: dict[str, Any]) -> str:
    if entry["available"]:
        return "; ".join(["measured", *(f"no {what}: {why}" for what, why in entry["lacks"].items())])
    reason = str(entry["reason"])
    return reason if reason.startswith("failed") else f"not available: {reason}"


def markdown(table: Table) -> str:
    """As a Markdown table."""
    lines = [
        f"| {' | '.join(table.headings)} |",
        f"|---|{('---:|' if table.numeric else '---|') * (len(table.headings) - 1)}",
    ]
    for row in table.rows:
        cells = [f"**{row[0]}**", *[""] * (len(table.headings) - 1)] if len(row) == 1 else list(row)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)
