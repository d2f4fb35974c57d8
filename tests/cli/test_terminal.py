"""What is printed, and how COMMAND of `gkfs run` gets on with a terminal."""

import doctest
import os
import pty
import select
import signal
import sys
import time
from types import ModuleType
from typing import Self

import pytest

from benchmarks import program
from gkfs.commands import launch, terminal
from tests.cli.workplace import TIMEOUT_S, Workplace, eventually


@pytest.mark.parametrize("module", [terminal, launch], ids=lambda module: module.__name__)
def test_examples_in_docstrings_hold(module: ModuleType) -> None:
    failed, tried = doctest.testmod(module)
    assert (failed, tried > 0) == (0, True)


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert terminal.one_line("a\nb\x1b[31mc\té ") == "a b [31mc é"


class Shell:
    """An interactive bash on a terminal of its own."""

    def __init__(self, workplace: Workplace) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.execve(
                "/bin/bash",
                ["bash", "--norc", "--noprofile", "-i"],
                workplace.environment | program.ENVIRONMENT | {"PS1": "$ "},
            )
        self.shown = ""

    def __enter__(self) -> Self:
        self.expect("$ ")
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.close(self._terminal)
        os.waitpid(self.pid, 0)

    def type(self, text: str) -> None:
        """Press the keys; what was shown before no longer counts."""
        self.shown = ""
        os.write(self._terminal, text.encode())

    def expect(self, text: str, within_s: float = TIMEOUT_S) -> None:
        """Wait until *text* is shown."""
        deadline_s = time.monotonic() + within_s
        while text not in self.shown:
            assert time.monotonic() < deadline_s, f"{text!r} is not in {self.shown!r}"
            if select.select([self._terminal], [], [], 0.1)[0]:
                self.shown += os.read(self._terminal, 4096).decode(errors="replace")


@pytest.mark.usefixtures("fuse")
def test_ctrl_c_and_ctrl_z_are_for_command(workplace: Workplace) -> None:
    gkfs = f"{sys.executable} -m gkfs run -m {workplace.mnt} --"
    with Shell(workplace) as shell:
        shell.type(f"{gkfs} sh -c 'echo be''gun; exec sleep 60'\n")
        shell.expect("begun")
        shell.type("\x1a")  # Ctrl-Z
        shell.expect("Stopped")
        assert workplace.mounted()
        shell.type("fg\n")
        shell.expect("gkfs run")
        eventually(lambda: any(name == "sleep 60 " for name in workplace.processes().values()), "sleep goes on")
        time.sleep(0.2)
        shell.type("\x03")  # Ctrl-C
        shell.expect("$ ")
        shell.type("echo status $?\n")
        shell.expect("status 130")
        assert not workplace.mounted()
        # A program that asks the terminal, as a password prompt does, is in the foreground.
        shell.type(f"{gkfs} sh -c 'read answer </dev/tty; echo got $answer'; echo status $?\n")
        eventually(workplace.mounted, "it is mounted")
        shell.type("text\n")
        shell.expect("got text")
        shell.expect("status 0")


def test_a_terminal_shows_a_bar_while_trees_are_moved_and_ctrl_c_ends_it(workplace: Workplace) -> None:
    workplace.start_daemons()
    for number in range(4000):
        folder = workplace.folder / "source" / str(number % 40)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file-{number}").write_bytes(bytes(4096))
    gkfs = f"{sys.executable} -m gkfs stage-in -H {workplace.hosts} {workplace.folder}/source"
    with Shell(workplace) as shell:
        shell.type(f"{gkfs} /; echo status $?\n")
        shell.expect("━")
        shell.expect(" files, ")
        shell.expect("status 0")
        assert "4000 files moved" in shell.shown
        shell.type(f"{gkfs} /again; echo status $?\n")
        shell.expect("━")
        shell.type("\x03")
        shell.expect("status 130")
        assert " files moved, 0 skipped" in shell.shown  # perhaps none: it was soon
    workplace.ok("fsck", "-H", workplace.hosts)
    workplace.ok("stop", "-H", workplace.hosts, "--purge")
