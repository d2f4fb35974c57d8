"""Daemons and mounts as processes of their own: starting them, learning why one ended, ending them.

A child is `gkfs daemon` or `gkfs mount --foreground` with everything it needs on its command line. It has a
session of its own, so that Ctrl-C does not reach it, and writes to a log file.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from gkfs import config
from gkfs.commands.signals import pause_until
from gkfs.errors import ExitStatus, GkfsError
from gkfs.limits import END_GRACE_S

_PR_SET_PDEATHSIG: Final = 1
_LOG_TAIL_BYTES: Final = 64 << 10
_REASON_PREFIX: Final = "gkfs: "
_STATUSES: Final = frozenset(int(status) for status in ExitStatus)


class Child:
    """A process made by `spawn`."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", log: Path, log_start: int) -> None:
        self.name = name
        self.process = process
        self.log = log
        self._log_start = log_start  # what came before is of earlier runs

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def failure(self) -> GkfsError:
        """Why the ended child ended: its own one-line reason and its exit status, passed on."""
        code = self.process.returncode
        if code < 0:
            return GkfsError(f"{self.name} was killed by {signal.Signals(-code).name}")
        reason = self._reason()
        status = ExitStatus(code) if code in _STATUSES else ExitStatus.FAILURE
        if not reason:
            return GkfsError(f"{self.name} ended with status {code} and said nothing, see {self.log}", status)
        return GkfsError(f"{self.name}: {reason}", status)

    def _reason(self) -> str:
        try:
            with self.log.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(self._log_start, size - _LOG_TAIL_BYTES))
                lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
        except OSError:
            return ""
        said = [line.removeprefix(_REASON_PREFIX) for line in lines if line.startswith(_REASON_PREFIX)]
        return (said or [line for line in lines if line] or [""])[-1]


def spawn(
    name: str, arguments: Sequence[str], log: Path, *, die_with_us: bool, pass_fds: Sequence[int] = ()
) -> Child:
    """Start `gkfs` *arguments* in the background with its messages appended to *log*. Raises GkfsError."""
    command = [sys.executable, "-m", "gkfs", *arguments]
    if die_with_us:
        command += ["--die-with", str(os.getpid())]
    return start(name, command, log, environment(), pass_fds=pass_fds)


def start(
    name: str,
    command: Sequence[str],
    log: Path,
    env: Mapping[str, str],
    *,
    pass_fds: Sequence[int] = (),
    say: bytes = b"",
) -> Child:
    """Start any *command* likewise; *say* is what it reads from its standard input. Raises GkfsError."""
    try:
        log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise GkfsError(f"log {log}: {error.strerror}") from None
    try:
        log_start = os.fstat(log_fd).st_size
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if say else subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            cwd="/",  # no folder is kept busy by it
            env=env,
            start_new_session=True,
            pass_fds=pass_fds,
        )
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), process.stdin:  # its end says more
                process.stdin.write(say)
    except OSError as error:
        raise GkfsError(f"cannot start {name}: {error.strerror}") from None
    finally:
        os.close(log_fd)
    return Child(name, process, log, log_start)


def end(children: Iterable[Child], grace_s: float = END_GRACE_S) -> None:
    """SIGTERM to all, after *grace_s* SIGKILL, without a grace at once; returns when all are gone."""
    running = [child for child in children if not child.ended]
    for child in running:
        if grace_s > 0:
            child.process.terminate()
    wait(running, grace_s)
    for child in running:
        if not child.ended:
            child.process.kill()
        child.process.wait()


def wait(children: Sequence[Child], timeout_s: float) -> None:
    """Wait until all have ended, at most *timeout_s*."""
    deadline_s = time.monotonic() + timeout_s
    while any(not child.ended for child in children) and pause_until(deadline_s):
        pass


def die_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Get signal *number* when process *parent* ends, however it ends; exits at once when it has already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        sys.exit(int(ExitStatus.FAILURE))


def is_running(pid: int, start_ticks: int = 0) -> bool:
    """Whether *pid* is a process, not a zombie, and, if *start_ticks* is known, still the same one."""
    ticks = start_time(pid)
    return ticks is not None and (start_ticks == 0 or ticks == start_ticks)


def start_time(pid: int) -> int | None:
    """When *pid* started, in clock ticks since boot; with the pid it names a process. None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # a process's name may hold anything, so count from its end
    return None if fields[0] in "ZX" else int(fields[19])


def is_stopped(pid: int) -> bool:
    """Whether *pid* is stopped, by SIGSTOP or a debugger: it will not do what it is asked to until it goes on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] in "Tt"


def environment() -> dict[str, str]:
    """Ours without what sets options: a child's options are all on its command line."""
    variables = {setting.variable for setting in config.SETTINGS} | {config.CONFIG_VARIABLE}
    result = {key: value for key, value in os.environ.items() if key not in variables}
    ours = Path(__file__).absolute().parents[2]
    if str(ours) not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        # We run from a checkout, which the child's working directory does not tell it.
        result["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ours), result.get("PYTHONPATH")]))
    return result
