"""COMMAND of `gkfs run`: a process group of its own, the terminal while there is one, signals passed on, an end.

The group is what signals go to, so that a shell's children get them, too. On a terminal the group becomes the
foreground one, as under a shell: Ctrl-C and Ctrl-Z then go to COMMAND and not to us, and a stopped COMMAND stops
us, so that the shell that started us sees it.
"""

import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gkfs.commands.signals import ENDING, Signals, pause_until
from gkfs.errors import ExitStatus, GkfsError
from gkfs.limits import END_GRACE_S

PASSED_ON: Final = (*ENDING, signal.SIGUSR1, signal.SIGUSR2)
_FOR_EVER_S: Final = 3600.0


class Command:
    """A running COMMAND."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it. Raises GkfsError: RUN_NOT_FOUND or RUN_NOT_EXECUTABLE."""
        name = arguments[0]
        try:
            self._process = subprocess.Popen(arguments, env=environment, process_group=0)
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise GkfsError(f"{name}: command not found", ExitStatus.RUN_NOT_FOUND) from None
            raise GkfsError(f"{name}: {error.strerror}", ExitStatus.RUN_NOT_EXECUTABLE) from None
        self._group = self._process.pid
        self._terminal = _Terminal()
        self._terminal.give_to(self._group)

    def wait(self, grace_s: float, signals: Signals, watch: Callable[[], None], *descriptors: int) -> int:
        """Its exit status, 128 + n when killed by signal n.

        *watch* is called now and then, and when one of *descriptors* is readable. A signal that asks for an end
        gives COMMAND *grace_s*, then comes SIGKILL.
        """
        deadline_s = float("inf")
        try:
            while (status := self._poll()) is None:
                now_s = time.monotonic()
                if now_s >= deadline_s:
                    self._signal(signal.SIGKILL)
                    deadline_s = float("inf")
                for number in signals.wait(min(deadline_s - now_s, _FOR_EVER_S), *descriptors):
                    if number in PASSED_ON:
                        self._signal(number)
                    if number in ENDING:
                        self._signal(signal.SIGCONT)  # a stopped process would not see it
                        deadline_s = min(deadline_s, time.monotonic() + grace_s)
                watch()
        finally:
            self._terminal.take_back()
        return status

    def end_group(self) -> None:
        """End what COMMAND left running in its group: SIGTERM, then SIGKILL."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        deadline_s = time.monotonic() + END_GRACE_S
        while self._group_exists() and pause_until(deadline_s):
            pass
        self._signal(signal.SIGKILL)

    def _poll(self) -> int | None:
        pid, state = os.waitpid(self._process.pid, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return None
        if os.WIFSTOPPED(state):
            self._stop_with_it()
            return None
        code = os.waitstatus_to_exitcode(state)
        self._process.returncode = code
        return code if code >= 0 else 128 - code

    def _stop_with_it(self) -> None:
        if not self._terminal.take_back():
            return  # no terminal: whoever stopped it will continue it
        os.kill(os.getpid(), signal.SIGSTOP)
        # Continued by the shell's fg or bg; only fg gave us the terminal.
        self._terminal.give_to(self._group)
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._group, number)

    def _group_exists(self) -> bool:
        try:
            os.killpg(self._group, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


class _Terminal:
    """The controlling terminal, if there is one."""

    def __init__(self) -> None:
        self._fd = -1
        self._given = False

    def give_to(self, group: int) -> None:
        """Make *group* the foreground one, if we are in the foreground."""
        with contextlib.suppress(OSError):
            self._fd = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
            if os.tcgetpgrp(self._fd) == os.getpgrp():
                os.tcsetpgrp(self._fd, group)
                self._given = True
                # It may have touched the terminal too early, and be stopped for that.
                os.killpg(group, signal.SIGCONT)

    def take_back(self) -> bool:
        """Be in the foreground again, if we were; whether we were."""
        given, self._given = self._given, False
        if given:
            # A background process that takes the terminal is stopped unless it ignores this.
            before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            with contextlib.suppress(OSError):
                os.tcsetpgrp(self._fd, os.getpgrp())
            signal.signal(signal.SIGTTOU, before)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        return given
