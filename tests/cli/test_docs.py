"""docs/cli.md says what the program does: every verb, every setting, every exit status; its file is valid."""

import re
import tomllib
from pathlib import Path

import click
import pytest

from gkfs import config
from gkfs.cli import cli
from gkfs.config import SETTINGS, Setting
from gkfs.daemon.faults import Kind
from gkfs.errors import ExitStatus

TEXT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def rows() -> dict[str, list[str]]:
    """The rows of all tables, by their first cell."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if "|" in line]
    return {row[0]: row for row in cells}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_every_setting_has_a_row(setting: Setting) -> None:
    option = f"`{setting.option}`"
    row = rows()[f"`-{setting.short}`, {option}" if setting.short else option]
    assert row[1:4] == [f"`{setting.variable}`", f"`{setting.key}`", ", ".join(setting.verbs)]


def test_every_verb_and_exit_status_has_a_row() -> None:
    assert {f"`gkfs {name}`" for name, command in cli.commands.items() if not command.hidden} <= rows().keys()
    statuses = {number for first in rows() for number in re.findall(r"^\d+|(?<=, )\d+", first)}
    assert {str(int(status)) for status in ExitStatus} <= statuses


def test_every_kind_of_fault_has_a_row() -> None:
    named = {name for first in rows() for name in re.findall(r"`([a-z]+)`", first)}
    assert {str(kind) for kind in Kind} <= named


def test_verbs_have_the_options_of_the_table_and_no_others() -> None:
    for name, command in cli.commands.items():
        assert isinstance(command, click.Command)
        if command.hidden:
            continue
        options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
        assert {option.name for option in options} == {"config", *(s.key for s in config.settings_of(name))}
        assert all(option.envvar for option in options)


def test_the_file_shown_is_valid() -> None:
    (sample,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    checked = config.check(tomllib.loads(sample), Path("sample"))
    assert checked.values_for("run") == {
        "rootdir": "/local/gkfs",
        "mountdir": "/local/mnt",
        "daemons": 2,
        "grace": 5.0,
    }
