"""`gkfs du`: what subtrees hold, counted by the daemons."""

from pathlib import Path
from typing import Any

import click

from gkfs import paths
from gkfs.commands import hostfiles, subtrees, terminal
from gkfs.commands.options import verb
from gkfs.commands.terminal import bytes_text, duration_text
from gkfs.tally import Tally, lower_bound, total

_EPILOG = """\b
Examples:
  gkfs du /mnt/job                     of a mount of this node
  gkfs du -H hosts / -d 1              of each directory at the top
  gkfs du -H hosts /results --histogram
Each daemon counts its own records once: no file is asked for by itself. Sizes are those that ls shows.
"""
_HEADINGS = ("SIZE", "FILES", "DIRECTORIES", "OTHERS", "PATH")
_BAR_WIDTH = 40


@verb("du", _EPILOG, depth={"type": click.IntRange(0, 4096), "default": 0, "metavar": "N"})
@click.argument("path", nargs=-1)
def du(path: tuple[str, ...], hostfile: Path | None, depth: int, histogram: bool, json: bool) -> None:
    """Show how many files and bytes are in PATH, in a mount or within the file system of HOSTFILE."""
    from gkfs.commands import usage  # imports trio

    chosen = subtrees.locate_all(path, hostfile)
    hosts = hostfiles.read(chosen[0].hostfile)
    counted = usage.count(hosts, [subtree.path for subtree in chosen], depth)
    if json:
        terminal.print_json(
            {
                "fsid": hosts.fsid,
                "subtrees": [
                    _document(subtree.path, found) for subtree, found in zip(chosen, counted, strict=True)
                ],
            }
        )
        return
    rows = [_row(path, tally) for found in counted for path, tally in found.items()]
    terminal.print_table(_HEADINGS, rows, frozenset(_HEADINGS[:-1]))
    if histogram:
        whole = total(found[subtree.path] for subtree, found in zip(chosen, counted, strict=True))
        _print_histogram("SIZE FROM", whole.sizes, bytes_text)
        _print_histogram("AGE FROM", whole.ages, duration_text)


def _row(path: bytes, tally: Tally) -> list[str]:
    others = tally.symlinks + tally.others
    numbers = [str(tally.files), str(tally.directories), str(others)]
    return [bytes_text(tally.size_bytes), *numbers, terminal.one_line(paths.printable(path))]


def _print_histogram(heading: str, classes: dict[int, int], text: Any) -> None:
    """Every class between the first and the last, empty ones too."""
    if not classes:
        return
    most = max(classes.values())
    rows = []
    for which in range(min(classes), max(classes) + 1):
        count = classes.get(which, 0)
        rows.append([text(lower_bound(which)), str(count), "#" * -(-count * _BAR_WIDTH // most)])
    terminal.say("")
    terminal.print_table((heading, "FILES", ""), rows, frozenset({heading, "FILES"}))


def _document(top: bytes, found: dict[bytes, Tally]) -> dict[str, Any]:
    directories = [{"path": paths.printable(path), **tally.document()} for path, tally in found.items()]
    return {"path": paths.printable(top), "directories": directories}
