"""The process that leads a job's file system in the background, after `gkfs start` has returned.

It is a fork of `gkfs start`, which waits for its word that all is ready. It ends when somebody asks for it
(`gkfs stop`, on any node), upon SIGTERM, or when no node is left; when it is killed, the nodes end by themselves.
"""

import contextlib
import json
import os
import signal
import stat
import traceback
from pathlib import Path
from typing import Any

from gkfs.commands import jobs, terminal
from gkfs.commands.jobs import Job
from gkfs.commands.leader import Leader, Wishes, until_the_end
from gkfs.commands.signals import Interrupted, Signals
from gkfs.errors import ExitStatus, GkfsError


def start_keeper(wishes: Wishes) -> tuple[Job, int]:
    """Start the file system and leave its leader in the background. The job, and how many daemons it has.

    Raises GkfsError with the reason when it does not start, or Interrupted; nothing is left then.
    """
    with Signals() as signals:
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read_end)
            _keep(wishes, write_end)
        os.close(write_end)
        with open(read_end, "rb") as reports:
            try:
                while not (line := _next_line(reports.fileno(), signals)):
                    pass
            except Interrupted:
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)
                raise
    report: dict[str, Any] = json.loads(line)
    if "status" in report:
        os.waitpid(pid, 0)
        raise GkfsError(report["message"], ExitStatus(report["status"]))
    return jobs.decode(report["job"]), int(report["daemons"])


def _next_line(descriptor: int, signals: Signals) -> bytes:
    signals.pause(3600.0, descriptor)
    os.set_blocking(descriptor, False)
    with contextlib.suppress(BlockingIOError):
        return (
            os.read(descriptor, 1 << 20)
            or json.dumps({"status": int(ExitStatus.FAILURE), "message": "the leader was killed"}).encode()
        )
    return b""


def _keep(wishes: Wishes, write_end: int) -> None:
    """The child: never returns."""
    code = 1
    try:
        os.setsid()
        os.chdir("/")
        with open(os.devnull, "r+b") as null:
            os.dup2(null.fileno(), 0)
            os.dup2(null.fileno(), 1)
        with Signals() as signals:
            _lead(wishes, write_end, signals)
        code = 0
    except BaseException as error:
        if not isinstance(error, GkfsError | Interrupted):
            traceback.print_exception(error)
        status = error.status if isinstance(error, GkfsError) else ExitStatus.FAILURE
        message = str(error) if isinstance(error, GkfsError) else f"unexpected: {type(error).__name__}: {error}"
        _report(write_end, {"status": int(status), "message": message})
    finally:
        os._exit(code)


def _lead(wishes: Wishes, write_end: int, signals: Signals) -> None:
    leader = Leader(wishes, signals)
    leader.start()
    _redirect_stderr(wishes.log, leader.log)
    _report(write_end, {"job": leader.job._asdict(), "daemons": len(leader.lines)})
    os.close(write_end)
    for warning in until_the_end(leader, signals):
        terminal.warn(warning)


def _redirect_stderr(log: Path | None, own: Path) -> None:
    """Our words go to *log* or where those of the job go; not to a pipe, for whose end somebody may wait."""
    mode = os.fstat(2).st_mode
    if log is not None or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        with open(log or own, "ab") as file:
            os.dup2(file.fileno(), 2)


def _report(write_end: int, report: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # `gkfs start` was killed
        os.write(write_end, json.dumps(report).encode())
