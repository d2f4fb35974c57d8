"""What `gkfs` prints: lines and tables for people on stdout, JSON for programs, faults on stderr."""

import json
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import click

_PLAIN_WIDTH: Final = 400  # of a table that goes into a file or pipe: nothing is cut off there


def say(text: str) -> None:
    """One line for a person."""
    click.echo(text)


def warn(text: str) -> None:
    """One line on stderr; what it tells of does not keep the verb from its work."""
    click.echo(f"gkfs: {one_line(text)}", err=True)


def print_json(value: Any) -> None:
    """*value* for a program: one JSON document."""
    click.echo(json.dumps(value, indent=2))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> None:
    """A table; the columns named in *right* are aligned to the right."""
    from rich.console import Console  # lazily: a tenth of a second
    from rich.table import Table
    from rich.text import Text

    width = None if sys.stdout.isatty() else _PLAIN_WIDTH
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])  # Text: a name in brackets is no markup
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def one_line(text: str) -> str:
    """*text* without line breaks and other control characters: names may hold any."""
    return "".join(char if char.isprintable() else " " for char in text.strip())


def bytes_text(count: int) -> str:
    """*count* bytes for a person.

    >>> bytes_text(1023), bytes_text(1536), bytes_text(5 << 30)
    ('1023 B', '1.5 KiB', '5.0 GiB')
    """
    if count < 1024:
        return f"{count} B"
    size = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} PiB"


def duration_text(seconds: float) -> str:
    """A duration for a person, in its two largest units.

    >>> duration_text(59.9), duration_text(3661), duration_text(90000)
    ('59s', '1h 1m', '1d 1h')
    """
    whole = max(0, int(seconds))
    for size, unit, below in ((86400, "d", 3600), (3600, "h", 60), (60, "m", 1)):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // below}{ {3600: 'h', 60: 'm', 1: 's'}[below] }"
    return f"{whole}s"
