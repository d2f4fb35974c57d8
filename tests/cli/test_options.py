"""Options, variables and the configuration file: precedence, and one line for what is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.workplace import TIMEOUT_S, Workplace

VERBS = ("run", "start", "mount", "umount", "stop", "status", "daemon", "config")


@pytest.mark.parametrize(
    "arguments", [[], *[[verb] for verb in VERBS]], ids=lambda verb: verb[0] if verb else "gkfs"
)
def test_help_shows_examples(workplace: Workplace, arguments: list[str]) -> None:
    help_text = workplace.ok(*arguments, "--help").out
    assert "Examples:" in help_text
    assert workplace.ok(*arguments, "-h").out == help_text


def test_help_lists_every_exit_status(workplace: Workplace) -> None:
    text = workplace.ok("--help").out
    assert all(f"  {status}  " in text for status in range(10))
    assert all(str(status) in text for status in (125, 126, 127))


def test_help_does_not_load_what_it_does_not_need() -> None:
    code = (
        "import sys\ntry:\n from gkfs.cli import main; main(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(','.join({'trio', 'rocksdict', 'pyfuse3', 'rich', 'msgpack'} & set(sys.modules)) or 0)"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_version_is_printed(workplace: Workplace) -> None:
    assert workplace.ok("--version").out.startswith("gkfs 0.")


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["strat"], "start"),
        (["start", "--no-such"], "--no-such"),
        (["start", "-r", "/tmp"], "--hostfile"),
        (["start", "-r", "/tmp", "-H", "/tmp/hosts", "-n", "0"], "0 is not in the range"),
        (["start", "-r", "/tmp", "-H", "/tmp/hosts", "-n", "two"], "two"),
        (["start", "-r", "", "-H", "/tmp/hosts"], "empty path"),
        (["mount", "-H", "/tmp/hosts"], "MOUNTDIR"),
        (["mount", "-H", "/tmp/hosts", "-m", "/tmp/a", "/tmp/b"], "two MOUNTDIRs"),
        (["mount", "-H", "/tmp/hosts", "/tmp", "--attr-timeout", "nan"], "nan"),
        (["mount", "-H", "/tmp/hosts", "/tmp", "--request-timeout", "0"], "0.0 is not in the range"),
        (["daemon", "-r", "/tmp", "-H", "/tmp/hosts"], "--index"),
        (["daemon", "-r", "/tmp", "-H", "/tmp/hosts", "-i", "-1"], "-1"),
        (["status", "-H", "/tmp/hosts", "more"], "more"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_with_a_hint(workplace: Workplace, arguments: list[str], fact: str) -> None:
    line = workplace.fails(2, *arguments)
    assert fact in line
    assert "--help'." in line


def test_no_arguments_show_the_help(workplace: Workplace) -> None:
    done = workplace.gkfs()
    assert done.status == 2
    assert "Usage: gkfs" in done.err


def write(workplace: Workplace, text: str) -> Path:
    path = workplace.folder / "gkfs.toml"
    path.write_text(text)
    return path


def missing(workplace: Workplace, name: str) -> str:
    return str(workplace.folder / f"no-{name}")


def test_file_is_below_environment_is_below_command_line(workplace: Workplace) -> None:
    file = write(workplace, f'hostfile = "{missing(workplace, "by-file")}"')
    by_environment = {"GKFS_HOSTFILE": missing(workplace, "by-environment"), "GKFS_CONFIG": str(file)}
    option = ("-H", missing(workplace, "by-option"))
    assert "no-by-file" in workplace.fails(5, "status", env={"GKFS_CONFIG": str(file)})
    assert "no-by-file" in workplace.fails(5, "status", "--config", file)
    assert "no-by-file" in workplace.fails(5, "--config", file, "status")
    assert "no-by-environment" in workplace.fails(5, "status", env=by_environment)
    assert "no-by-option" in workplace.fails(5, "status", *option, env=by_environment)


def test_a_flag_of_the_file_can_be_taken_back(workplace: Workplace) -> None:
    file = write(workplace, "json = true")
    assert workplace.ok("config", "--config", file).out.startswith("{")
    assert not workplace.ok("config", "--config", file, "--no-json").out.startswith("{")
    done = workplace.gkfs("config", "--config", file, env={"GKFS_JSON": "false"})
    assert not done.out.startswith("{")


def test_the_table_of_a_verb_is_above_the_common_keys(workplace: Workplace) -> None:
    file = write(workplace, f'hostfile = "/no-common"\n[status]\nhostfile = "{missing(workplace, "of-status")}"')
    assert "no-of-status" in workplace.fails(5, "status", "--config", file)
    assert "/no-common" in workplace.fails(5, "stop", "--config", file)


def test_config_of_the_command_line_is_above_that_of_the_environment(workplace: Workplace) -> None:
    file = write(workplace, 'hostfile = "/no-such"')
    assert "/no-such" in workplace.fails(5, "status", "--config", file, env={"GKFS_CONFIG": "/no-config"})
    assert "/no-such" in workplace.fails(5, "--config", file, "status", env={"GKFS_CONFIG": "/no-config"})


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ('rotdir = "/tmp"', ["'rotdir'", "'rootdir'"]),
        ("[mont]\nforeground = true", ["'mont'", "'mount'"]),
        ("[mount]\nallow-other = true", ["'allow-other'", "'allow_other'", "[mount]"]),
        ("[umount]\nhostfile = '/tmp'", ["'hostfile'", "[umount]"]),
        ('daemons = "2"', ["daemons", "'2'", "a whole number"]),
        ("daemons = true", ["daemons", "true", "a whole number"]),
        ("json = 1", ["json", "true or false"]),
        ("hostfile = 7", ["hostfile", "a path"]),
        ('hostfile = ""', ["hostfile", "not empty"]),
        ("grace = '5 s'", ["grace", "a number of seconds"]),
        ("run = 5", ["[run]"]),
        ("daemons = = 2", ["not TOML", "line 1"]),
    ],
)
def test_what_is_wrong_in_the_file_is_named(workplace: Workplace, text: str, facts: list[str]) -> None:
    file = write(workplace, text)
    line = workplace.fails(2, "config", "--config", file)
    assert all(fact in line for fact in [str(file), *facts]), line


def test_a_file_that_cannot_be_read_is_named(workplace: Workplace) -> None:
    assert "/no-config: No such file" in workplace.fails(2, "config", env={"GKFS_CONFIG": "/no-config"})
    assert "Is a directory" in workplace.fails(2, "config", "--config", workplace.folder)
    binary = workplace.folder / "binary"
    binary.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in workplace.fails(2, "config", "--config", binary)


def test_a_wrong_value_is_said_to_be_of_variable_or_file(workplace: Workplace) -> None:
    arguments = ("start", "-r", workplace.root, "-H", workplace.hosts)
    assert "GKFS_DAEMONS: 'many'" in workplace.fails(2, *arguments, env={"GKFS_DAEMONS": "many"})
    assert "GKFS_JSON: 'perhaps'" in workplace.fails(2, *arguments, env={"GKFS_JSON": "perhaps"})
    file = write(workplace, "daemons = 0")
    assert f"{file}: daemons" in workplace.fails(2, *arguments, "--config", file)


def test_config_shows_values_and_where_they_come_from(workplace: Workplace) -> None:
    file = write(workplace, "daemons = 2\n[run]\ndaemons = 3\ngrace = 1.5")
    done = workplace.gkfs("config", "--config", file, "--json", env={"GKFS_GRACE": "7"})
    assert done.json["settings"] == [
        {"key": "daemons", "value": 2, "source": str(file)},
        {"key": "daemons", "value": 3, "source": f"{file} [run]"},
        {"key": "grace", "value": "7", "source": "GKFS_GRACE"},
    ]
    assert "daemons" in workplace.ok("config", "--config", file).out


def test_slurm_procid_is_the_index_unless_told_otherwise(workplace: Workplace) -> None:
    arguments = ("daemon", "-r", workplace.root, "-H", workplace.hosts, "-n", "2")
    line = workplace.fails(5, *arguments, env={"SLURM_PROCID": "4"})
    assert "daemon 4 of a file system of 2" in line
    assert "daemon 5 of" in workplace.fails(5, *arguments, env={"SLURM_PROCID": "4", "GKFS_INDEX": "5"})
    assert "daemon 6 of" in workplace.fails(5, *arguments, "-i", "6", env={"SLURM_PROCID": "4"})


def test_a_reader_that_goes_away_is_no_traceback(workplace: Workplace) -> None:
    process = workplace.start(["--help"])
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert err == ""


def test_the_unexpected_is_one_line_and_a_log(workplace: Workplace) -> None:
    broken = workplace.folder / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import gkfs.config\ndef load(path): raise ValueError('two\\nlines')\ngkfs.config.load = load\n"
    )
    root = str(Path(__file__).parents[2])
    environment = workplace.environment | {"PYTHONPATH": os.pathsep.join([str(broken), root])}
    command = [sys.executable, "-m", "gkfs", "config", "--config", "x"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    log = workplace.runtime / "gkfs" / "errors.log"
    assert done.returncode == 1
    assert done.stderr == f"gkfs: unexpected: ValueError: two lines (traceback in {log})\n"
    assert "Traceback" in log.read_text()
    log.unlink()
    log.parent.rmdir()
    environment["GKFS_DEBUG"] = "1"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" in done.stderr
