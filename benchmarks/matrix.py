"""gkfs beside the local disk, libfuse's C passthrough, GlusterFS and MooseFS, in one run on this machine.

FOLDER is an empty or missing place on a local disk; all systems are set up in it, measured in turns, and removed,
whatever happens. Debian packages that are missing are installed by apt-get; their services are not started. A
system that cannot be had is reported with the reason.

\b
  python -m benchmarks.matrix /var/tmp/bench                              everything, about 40 minutes
  python -m benchmarks.matrix --quick /var/tmp/bench                      a glance, about 4 minutes
  python -m benchmarks.matrix --systems gkfs-1,disk --workloads one-1 /var/tmp/bench
  python -m benchmarks.matrix --systems safety /var/tmp/bench             what checksums, syncing and the log cost

Results: OUTPUT/results.json, OUTPUT/results.svg, and tables on stdout. docs/performance.md explains them.
Exit status 1: a system that could be had failed. 2: wrong usage.
"""

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks import plot, report, results, tables
from benchmarks.measure import can_drop_caches
from benchmarks.processes import Failed
from benchmarks.runner import Plan, run_plan
from benchmarks.systems.catalogue import CATALOGUE
from benchmarks.systems.ours import SAFETY
from benchmarks.workloads import OPTIONAL, SCALES, cells
from gkfs.errors import ExitStatus, GkfsError

_SAFETY = "safety"
CELLS = tuple(cell.key for cell in cells(SCALES["tiny"], Path()))


def chosen(text: str | None, known: tuple[str, ...], default: tuple[str, ...], what: str) -> list[str]:
    """The names in *text*, separated by commas, in the order of *known*. Raises GkfsError for others."""
    if text is None:
        return list(default)
    wanted = {name.strip() for name in text.split(",")}
    if unknown := sorted(wanted - set(known)):
        raise GkfsError(f"no {what} {', '.join(unknown)}; there are {', '.join(known)}", ExitStatus.USAGE)
    return [name for name in known if name in wanted]


def check_folder(folder: Path) -> bool:
    """Make FOLDER if it is missing; whether it was. Raises GkfsError unless it is empty."""
    try:
        missing = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise GkfsError(f"{folder} is not empty", ExitStatus.USAGE)
    except OSError as error:
        raise GkfsError(f"{folder}: {error.strerror}", ExitStatus.USAGE) from None
    return missing


def show(document: results.Document, console: Console) -> None:
    """All tables."""
    for table in (
        tables.rate_table(document),
        tables.cpu_table(document),
        tables.request_table(document),
        tables.memory_table(document),
        tables.safety_table(document),
        tables.target_table(document),
        tables.system_table(document),
    ):
        if not table.rows:
            continue
        shown = RichTable(title=table.title, title_justify="left", box=None)
        for index, heading in enumerate(table.headings):
            right = index > 0 and table.numeric
            shown.add_column(heading, justify="right" if right else "left", no_wrap=right)
        for row in table.rows:
            shown.add_row(f"[bold]{row[0]}[/bold]" if len(row) == 1 else row[0], *row[1:])
        console.print(shown)
        console.print()


def execute(plan: Plan, output: Path, into: Path | None) -> int:
    """Run, show and keep; the exit status. Raises GkfsError."""
    missing = check_folder(plan.folder)
    stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    if not can_drop_caches():
        stderr.print("not root: the system's caches cannot be dropped, so reads come from memory")
    try:
        output.mkdir(parents=True, exist_ok=True)
        document = run_plan(plan, lambda text: stderr.print(text, markup=False))
    except (Failed, OSError) as error:
        raise GkfsError(str(error)) from None
    finally:
        if missing and not any(plan.folder.iterdir()):
            plan.folder.rmdir()
    results.write(document, output / "results.json")
    (output / "results.svg").write_text(plot.svg(document))
    stdout = Console(highlight=False)
    show(document, stdout if stdout.is_terminal else Console(highlight=False, width=200))
    if into is not None:
        report.write_into(document, into)
    failed = [name for name, entry in document["systems"].items() if str(entry["reason"]).startswith("failed")]
    return int(bool(failed))


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--quick", is_flag=True, help="the same as --scale quick")
@click.option("--scale", type=click.Choice(list(SCALES)), default="default", show_default=True)
@click.option("--rounds", type=click.IntRange(1, 1000), help="of each workload; 5 by default")
@click.option(
    "--systems",
    help=f"some of {','.join(CATALOGUE)}; all of {','.join(SAFETY)} and what they differ from: {_SAFETY}",
)
@click.option("--workloads", help=f"some of {','.join(CELLS)}; {','.join(OPTIONAL)} only if named")
@click.option("--install/--no-install", default=True, help="missing Debian packages")
@click.option("--output", type=click.Path(path_type=Path), default=Path("benchmark-results"), show_default=True)
@click.option("--report", "into", type=click.Path(path_type=Path), help="Markdown file that gets the tables, too")
@click.option(
    "--set", "changes", multiple=True, metavar="NAME=NUMBER", help="a number of the scale, as in the JSON"
)
def main(
    folder: Path,
    quick: bool,
    scale: str,
    rounds: int | None,
    systems: str | None,
    workloads: str | None,
    install: bool,
    output: Path,
    into: Path | None,
    changes: tuple[str, ...],
) -> None:
    """Parse, run."""
    name = "quick" if quick else scale
    try:
        numbers = SCALES[name]
        for change in changes:
            field, _, value = change.partition("=")
            if field not in numbers._fields:
                raise GkfsError(f"no {field}; there are {', '.join(numbers._fields)}", ExitStatus.USAGE)
            try:
                numbers = numbers._replace(**{field: json.loads(value)})
            except ValueError:
                raise GkfsError(f"{change}: not a number", ExitStatus.USAGE) from None
        numbers = numbers._replace(rounds=rounds) if rounds else numbers
        usual = tuple(cell for cell in CELLS if cell not in OPTIONAL)
        usual_systems = tuple(system for system in CATALOGUE if system not in SAFETY)
        if systems == _SAFETY:
            systems = ",".join([*SAFETY, *SAFETY.values()])
        plan = Plan(
            folder.absolute(),
            name,
            numbers,
            chosen(systems, tuple(CATALOGUE), usual_systems, "system"),
            chosen(workloads, CELLS, usual, "workload"),
            install,
        )
        status = execute(plan, output, into)
    except GkfsError as error:
        click.echo(f"benchmarks: {error}", err=True)
        status = error.status
    except KeyboardInterrupt as error:
        click.echo(f"benchmarks: ended by {error or 'SIGINT'}, everything is removed", err=True)
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
