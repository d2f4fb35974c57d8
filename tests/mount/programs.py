"""Running real programs in tests: bounded in time, their output shown when they fail, skipped when missing."""

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

PROGRAM_LIMIT_S: Final = 120


def need(*names: str) -> None:
    """Skip the test when one of the programs is not installed."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def run(
    *command: str | bytes | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    status: int = 0,
    user: int | None = None,
) -> str:
    """Run *command*, as *user* if given, which must end with *status*; what it wrote to its output."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=dict(os.environ) | dict(env or {}),
        input=stdin.encode() if stdin is not None else None,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=PROGRAM_LIMIT_S,
        check=False,
        user=user,
        group=user,
        extra_groups=[] if user is not None else None,
    )
    output, errors = (os.fsdecode(part) for part in (done.stdout, done.stderr))
    assert done.returncode == status, (
        f"{os.fsdecode(command[0])} {command[1:]!r} ended with {done.returncode}:\n{output}\n{errors}"
    )
    return output


def python(script: str, *arguments: str | Path, cwd: Path | None = None) -> str:
    """Run *script* in an interpreter of its own; what it printed."""
    return run(sys.executable, "-c", script, *arguments, cwd=cwd)


def at_once(function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> None:
    """Run *function* in one forked process per tuple of arguments, all at the same time; none may fail."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about forking with threads: the children only make system calls
        pids = [_fork(function, own) for own in arguments]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert statuses == [0] * len(arguments), f"exit statuses {statuses}; their tracebacks are on standard error"


def _fork(function: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            function(*arguments)
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        finally:
            os._exit(1)
    return pid
