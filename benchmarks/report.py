"""Puts the results of a run into a Markdown file, between its markers, and the picture beside it.

    python -m benchmarks.report results.json [MORE.json]... --into docs/performance.md

What a later file has of rows and systems is taken from it.
"""

import sys
from pathlib import Path

import click

from benchmarks import plot, results, tables
from gkfs.errors import ExitStatus, GkfsError

BEGIN = "<!-- results: begin, written by benchmarks.report -->"
END = "<!-- results: end -->"


def merge(documents: list[results.Document]) -> results.Document:
    """One document of several runs; the facts are those of the first."""
    merged, *others = documents
    for other in others:
        known = {row["key"] for row in merged["rows"]}
        merged["rows"] += [row for row in other["rows"] if row["key"] not in known]
        merged["systems"] = other["systems"] | merged["systems"]
        for row, systems in other["medians"].items():
            merged["medians"].setdefault(row, {}).update(systems)
        for row, samples in other["samples"].items():
            merged["samples"].setdefault(row, {}).update(samples)
    return merged


def text(document: results.Document, picture: str) -> str:
    """What stands between the markers. *picture*: path of the SVG, from the Markdown file."""
    machine, scale = document["machine"], document["scale"]
    memory_gib = machine["memory_bytes"] / (1 << 30)
    facts = (
        f"Run of {document['begun']}, scale `{scale['name']}`, {scale['rounds']} rounds, "
        f"{document['seconds'] / 60:.0f} minutes. {machine['system']}, Linux {machine['kernel']}, "
        f"{machine['processors']} processors ({machine['model']}), {memory_gib:.0f} GiB of memory, "
        f"{machine['file_system']} on {machine['disk']}, Python {machine['python']}, {machine['fio']}. "
        f"Load average before it: {machine['load_average']:.1f}."
    )
    parts = [BEGIN, facts, f"![How many times as fast]({picture})"]
    for table in (
        tables.system_table(document),
        tables.target_table(document),
        tables.rate_table(document),
        tables.cpu_table(document),
        tables.request_table(document),
        tables.memory_table(document),
        tables.safety_table(document),
    ):
        if table.rows:
            parts += [f"### {table.title}", tables.markdown(table)]
    return "\n\n".join([*parts, END])


def write_into(document: results.Document, path: Path) -> None:
    """Replace what is between the markers of the file *path*, and write its picture. Raises GkfsError."""
    picture = path.with_suffix(".svg")
    try:
        before, found, rest = path.read_text().partition(BEGIN)
        _, ended, after = rest.partition(END)
        if not found or not ended:
            raise GkfsError(f"{path} has no markers: {BEGIN} and {END}", ExitStatus.USAGE)
        path.write_text(before + text(document, picture.name) + after)
        picture.write_text(plot.svg(document))
    except OSError as error:
        raise GkfsError(f"{path}: {error.strerror}", ExitStatus.USAGE) from None


@click.command(help=__doc__)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--into", type=click.Path(path_type=Path), default=Path("docs/performance.md"), show_default=True)
def main(files: tuple[Path, ...], into: Path) -> None:
    """Read, merge, write."""
    try:
        write_into(merge([results.read(path) for path in files]), into)
    except GkfsError as error:
        click.echo(f"benchmarks: {error}", err=True)
        sys.exit(error.status)


if __name__ == "__main__":
    main()
