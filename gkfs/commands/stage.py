"""`gkfs stage-in` and `gkfs stage-out`: whole trees from and to an ordinary file system, by all nodes."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from gkfs.commands import hostfiles, jobs, mover, progress, records, staging, subtrees, terminal
from gkfs.commands.launchers import Places, find_places
from gkfs.commands.options import verb
from gkfs.commands.signals import Interrupted, Signals
from gkfs.commands.staging import Coordinator, Errand, Result
from gkfs.commands.terminal import bytes_text
from gkfs.errors import ExitStatus, GkfsError
from gkfs.limits import REQUEST_TIMEOUT_S

_SHOWN: Final = 20  # entries named on stderr; all are in --log
_EXIT: Final = "Exit status 12: some entries were not moved, and are named. 13: --verify has found differences.\n"
_EPILOG_IN: Final = f"""\b
Examples:
  gkfs stage-in /mnt/shared/input .                  in a job: to $GKFS_MOUNTDIR/input
  gkfs stage-in /mnt/shared/input/ data              its contents, to $GKFS_MOUNTDIR/data
  gkfs stage-in --verify /mnt/shared/input .         compare contents, change nothing
{_EXIT}"""
_EPILOG_OUT: Final = f"""\b
Examples:
  gkfs stage-out results /mnt/shared/                in a job: $GKFS_MOUNTDIR/results, to /mnt/shared/results
  gkfs stage-out "$GKFS_MOUNTDIR"/run*/ /mnt/shared/all
  gkfs stage-out -H hosts / backup                   all there is
{_EXIT}"""


class _Options(NamedTuple):
    """The options of both verbs as given."""

    mountdir: Path | None
    hostfile: Path | None
    request_timeout: float | None
    log: Path | None
    movers: int | None
    checksum: bool
    verify: bool
    json: bool


class _Site(NamedTuple):
    """The file system meant, and where its movers run."""

    hostfile: Path
    mountdir: Path | None
    places: Places
    tls: bool


@verb("stage-in", _EPILOG_IN, hostfile={"help": "Hostfile of the file system.  [default: that of this job]"})
@click.argument("arguments", nargs=-1, required=True, metavar="SRC... DST")
def stage_in(arguments: Sequence[str], **options: Any) -> None:
    """Copy SRC, files and whole folders that all nodes see, to DST in the file system.

    DST is a path in the namespace, or below MOUNTDIR. As with rsync SRC goes into DST under its own name, `SRC/`
    is its contents. What is there already with the same size and time is skipped.
    """
    _stage("in", arguments, _Options(**options))


@verb("stage-out", _EPILOG_OUT, hostfile={"help": "Hostfile of the file system.  [default: that of this job]"})
@click.argument("arguments", nargs=-1, required=True, metavar="SRC... DST")
def stage_out(arguments: Sequence[str], **options: Any) -> None:
    """Copy SRC, files and whole directories in the file system, to DST on a file system that all nodes see.

    SRC is a path in the namespace, or below MOUNTDIR. As with rsync SRC goes into DST under its own name, `SRC/`
    is its contents. What is there already with the same size and time is skipped.
    """
    _stage("out", arguments, _Options(**options))


def _stage(direction: str, arguments: Sequence[str], options: _Options) -> None:
    if len(arguments) < 2:
        raise click.UsageError("Missing argument 'DST'.", click.get_current_context())
    if not all(arguments):
        raise click.UsageError("An empty path.", click.get_current_context())
    site = _site(options, arguments)
    per_host = options.movers or staging.movers_by_default()
    errand = _errand(direction, arguments, site, options, per_host)
    begun_s = time.monotonic()
    with Signals() as signals, progress.Meter(f"stage-{direction}") as meter:
        result = Coordinator(errand, site.places, per_host, options.log, signals).run(meter.show)
    _report(direction, result, options, time.monotonic() - begun_s)


# --- what is meant


def _site(options: _Options, arguments: Sequence[str]) -> _Site:
    """The file system: of the hostfile given, of a mount that an argument is below, or of this job."""
    hostfile, mountdir = options.hostfile, options.mountdir
    if hostfile is None:
        for argument in arguments:
            mounted = subtrees.mount_above(Path(os.path.abspath(argument)))
            record = records.find(mounted) if mounted else None
            if mounted and record:
                hostfile, mountdir = Path(record.hostfile), mounted
    job = jobs.find_for(hostfile)
    if hostfile is None:
        if job is None:
            raise GkfsError("no file system: no -H, and this is no job that has one", ExitStatus.HOSTFILE)
        hostfile = job.hostfile
    tls = hostfiles.read(hostfile).features.tls
    if job is not None:
        return _Site(hostfile, mountdir or Path(job.mountdir), job.places, tls)
    return _Site(hostfile, mountdir, find_places("local", None), tls)


def _is_contents(argument: str) -> bool:
    return argument.endswith("/") or os.path.basename(argument) in (".", "..")


def _errand(direction: str, arguments: Sequence[str], site: _Site, options: _Options, per_host: int) -> Errand:
    *sources, dst = arguments
    into = _is_contents(dst) or len(sources) > 1

    def outside(argument: str) -> bytes:
        return os.fsencode(os.path.abspath(argument))

    def inside(argument: str) -> bytes:
        return subtrees.inside(argument, subtrees.mount_above(Path(os.path.abspath(argument))), site.mountdir)

    here, there = (outside, inside) if direction == "in" else (inside, outside)
    unit = {
        "do": "prepare",
        "sources": [[here(source), _is_contents(source)] for source in sources],
        "dst": there(dst),
        "into": into,
        "parts": per_host,
        "path": there(dst),
    }
    outer = [outside(source) for source in sources] if direction == "in" else [os.path.dirname(outside(dst))]
    plan = {"checksum": options.checksum, "verify": options.verify}
    timeout_s = options.request_timeout or REQUEST_TIMEOUT_S
    return Errand(direction, unit, plan, site.hostfile, timeout_s, list(_identities(outer)), site.tls)


def _identities(outer: Sequence[bytes]) -> Iterator[tuple[bytes, list[int]]]:
    """What all nodes must see, as far as it is there."""
    for path in outer:
        while path not in (b"/", b""):
            with contextlib.suppress(OSError):
                yield path, mover.identity(path)
                break
            path = os.path.dirname(path)


# --- what came of it


def _report(direction: str, result: Result, options: _Options, duration_s: float) -> None:
    """Say what was done. Raises GkfsError when not all was, Interrupted after a signal."""
    for warning in result.warnings:
        terminal.warn(warning)
    _name("", result.errors, options.log)
    _name("differs: ", result.differences, options.log)
    counts, errors, different = result.counts, len(result.errors), len(result.differences)
    if options.json:
        document = {name: counts[name] for name in ("files", "directories", "bytes", "skipped")}
        for name, entries in (("errors", result.errors), ("differences", result.differences)):
            document |= {name: [{"path": _shown(path), "reason": text} for path, text in entries]}  # type: ignore[dict-item]
        terminal.print_json(document | {"seconds": round(duration_s, 3)})
    else:
        rate = bytes_text(int(counts["bytes"] / max(duration_s, 1e-3)))
        done = "compared" if options.verify else f"moved, {counts['skipped']} skipped"
        files = counts["skipped"] if options.verify else counts["files"]
        terminal.say(
            f"stage-{direction}: {files} files {done}, {counts['directories']} new directories, "
            f"{bytes_text(counts['bytes'])} in {duration_s:.1f} s ({rate}/s), {errors} errors"
            + (f", {different} differences" if options.verify else "")
        )
    if result.signal:
        raise Interrupted(result.signal)
    if errors:
        raise GkfsError(f"{errors} entr{'y' if errors == 1 else 'ies'} could not be moved", ExitStatus.INCOMPLETE)
    if different:
        raise GkfsError(
            f"{different} entr{'y differs' if different == 1 else 'ies differ'} from the source",
            ExitStatus.DIFFERENT,
        )


def _name(what: str, entries: Sequence[tuple[bytes, str]], log: Path | None) -> None:
    """Name the first on stderr, and all in the log."""
    lines = [terminal.one_line(f"{what}{_shown(path)}: {text}") for path, text in entries]
    for line in lines[:_SHOWN]:
        terminal.warn(line)
    if len(lines) > _SHOWN:
        where = f"all are in {log}" if log else "--log FILE names all"
        terminal.warn(f"... and {len(lines) - _SHOWN} more; {where}")
    if log is not None and lines:
        with contextlib.suppress(OSError), log.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
