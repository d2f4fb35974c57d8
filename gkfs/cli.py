"""The `gkfs` command: composes the verbs, and turns whatever goes wrong into one line and an exit status."""

import contextlib
import os
import stat
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from gkfs import __version__
from gkfs.commands import records
from gkfs.commands.configuration import configuration
from gkfs.commands.daemon import daemon
from gkfs.commands.du import du
from gkfs.commands.fsck import fsck
from gkfs.commands.mount import mount
from gkfs.commands.mover import mover
from gkfs.commands.node import node
from gkfs.commands.options import AbsolutePath, place_of
from gkfs.commands.pack import pack
from gkfs.commands.run import run
from gkfs.commands.signals import Interrupted
from gkfs.commands.stage import stage_in, stage_out
from gkfs.commands.start import start
from gkfs.commands.status import status
from gkfs.commands.stop import stop
from gkfs.commands.terminal import one_line
from gkfs.commands.umount import umount
from gkfs.commands.unpack import unpack
from gkfs.config import DEBUG_VARIABLE
from gkfs.errors import ExitStatus, GkfsError

_EPILOG = """\b
Examples:
  gkfs run -m /tmp/fast -- make -C /tmp/fast    a file system for one command
  gkfs start -r /local/data -H hosts -n 2       or step by step: the daemons,
  gkfs mount -H hosts /mnt/job                  a mount of theirs (on each node),
  gkfs umount /mnt/job
  gkfs stop -H hosts --purge                    and the end

\b
Every option is also a variable GKFS_OPTION and a key of a TOML file (--config).
The command line comes before the environment, the environment before the file.

\b
Exit status:
  0  done                    6  a daemon does not answer, or did not start in time
  1  unexpected failure      7  client and daemon are of different versions
  2  wrong usage or key      8  the address to listen on cannot be had
  3  rootdir                 9  /dev/fuse, fusermount3 or /etc/mtab is missing
  4  mountdir             128+N  ended by signal N
  5  hostfile                10  fsck: there were faults, all are repaired
                          11  fsck: there are faults
                          12  stage-in, stage-out: not everything was moved
                          13  stage-in, stage-out --verify: the copies differ
                          14  a pack is damaged or not complete
`gkfs run` ends as its command does; 125 gkfs failed, 126 not executable, 127 not found.
"""
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(epilog=_EPILOG, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="gkfs", message="%(prog)s %(version)s")
@click.option("--config", type=AbsolutePath(), metavar="FILE", help="TOML file with values for options.")
@click.pass_context
def cli(context: click.Context, config: Path | None) -> None:
    """A temporary file system over the local disks of a job's nodes."""
    context.obj = config


_VERBS = (
    run,
    start,
    mount,
    umount,
    stop,
    status,
    stage_in,
    stage_out,
    pack,
    unpack,
    du,
    fsck,
    daemon,
    configuration,
)
_HIDDEN = (node, mover)
for _verb in (*_VERBS, *_HIDDEN):
    cli.add_command(_verb)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; nothing but SystemExit leaves here."""
    context: click.Context | None = None
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        context = cli.make_context("gkfs", words.copy())
        with context:
            cli.invoke(context)
        sys.stdout.flush()
        code = 0
    except BaseException as error:
        verb = context.invoked_subcommand if context else None
        code = _report(error, verb)
        if verb == "start" and code:
            _fail_eval(code, words)
    _leave(code)


def _report(error: BaseException, verb: str | None) -> int:
    """Say what *error* is, in one line where it is not an ordinary end, and give the exit status."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case SystemExit():
            return error.code if isinstance(error.code, int) else int(ExitStatus.FAILURE)
        case click.exceptions.NoArgsIsHelpError():
            error.show()
            return int(ExitStatus.USAGE)
        case click.ClickException():
            return _report_usage(error, verb)
        case GkfsError():
            _complain(str(error))
            if os.environ.get(DEBUG_VARIABLE):
                traceback.print_exception(error)
            return _status(error.status, verb)
        case Interrupted():
            return 128 + error.number
        case KeyboardInterrupt() | click.Abort():
            return 130
        case BrokenPipeError():
            return 128 + 13  # as SIGPIPE would have ended us
        case BaseExceptionGroup():
            return _report(error.exceptions[0], verb)
        case _:
            return _report_unexpected(error, verb)


def _status(status: ExitStatus, verb: str | None) -> int:
    """*status*, but for `gkfs run`, whose other statuses are its command's."""
    of_run = (ExitStatus.RUN_NOT_FOUND, ExitStatus.RUN_NOT_EXECUTABLE)
    return int(ExitStatus.RUN_FAILED if verb == "run" and status not in of_run else status)


def _report_usage(error: click.ClickException, verb: str | None) -> int:
    context = error.ctx if isinstance(error, click.UsageError) else None
    message = error.format_message()
    if isinstance(error, click.BadParameter) and (place := place_of(error)):
        message = f"{place}: {error.message}"
    path = context.command_path if context else "gkfs"
    _complain(f"{message.rstrip('.')}. Try '{path} --help'.")
    return _status(ExitStatus.USAGE, verb)


def _report_unexpected(error: BaseException, verb: str | None) -> int:
    text = f"unexpected: {type(error).__name__}: {error}"
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
        where = "traceback above"
    else:
        where = _log_traceback(error)
    _complain(f"{text} ({where})")
    return _status(ExitStatus.FAILURE, verb)


def _log_traceback(error: BaseException) -> str:
    try:
        path = records.folder() / "errors.log"
        with path.open("a") as log:
            log.write(f"gkfs {__version__}, arguments {sys.argv[1:]}\n")
            traceback.print_exception(error, file=log)
    except (OSError, GkfsError):
        return f"{DEBUG_VARIABLE}=1 shows the traceback"
    return f"traceback in {path}"


def _fail_eval(code: int, arguments: Sequence[str]) -> None:
    """Make the shell of `eval "$(gkfs start)"` see the status: eval of nothing succeeds, and the job goes on."""
    with contextlib.suppress(OSError, ValueError):
        if stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode) and "--json" not in arguments:
            print(f"(exit {code})", flush=True)


def _complain(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # if nobody is there to read it the exit status remains
        print(f"gkfs: {one_line(text)}", file=sys.stderr, flush=True)


def _leave(code: int) -> NoReturn:
    """Exit without complaints of a stdout that nobody reads any more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)
