"""`gkfs config`: what the configuration file and the environment set."""

import os
from typing import Any

import click

from gkfs import __version__, config
from gkfs.commands import terminal
from gkfs.commands.options import verb
from gkfs.config import Configuration

_EPILOG = """\b
Examples:
  gkfs config                        what is set, and where
  gkfs config --config job.toml      check a file
"""


@verb("config", _EPILOG)
def configuration(json: bool) -> None:
    """Check the configuration file and show what it and the environment set."""
    known: Configuration | None = click.get_current_context().meta.get("gkfs.configuration")
    rows = config.effective(known, os.environ)
    if json:
        document: dict[str, Any] = {
            "version": __version__,
            "file": str(known.path) if known else None,
            "settings": [row._asdict() for row in rows],
        }
        terminal.print_json(document)
    elif rows:
        terminal.print_table(("SETTING", "VALUE", "FROM"), [(row.key, str(row.value), row.source) for row in rows])
    else:
        terminal.say("nothing is set by a configuration file or the environment")
