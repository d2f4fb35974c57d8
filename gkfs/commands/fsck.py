"""`gkfs fsck`: check everything that the daemons of a file system store, and mend it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gkfs.commands import hostfiles, terminal
from gkfs.commands.options import verb
from gkfs.commands.terminal import bytes_text
from gkfs.errors import ExitStatus, GkfsError

if TYPE_CHECKING:
    from gkfs.commands.survey import Report
    from gkfs.daemon.faults import Fault

_EPILOG = """\b
Examples:
  gkfs fsck -H hosts             name every fault
  gkfs fsck -H hosts --repair    and mend what is safe to mend
Exit status 0: no fault. 10: there were faults, all are repaired. 11: there are faults.
Nothing else should work on the file system meanwhile; it may be mounted.
"""


@verb(
    "fsck",
    _EPILOG,
    hostfile={"required": True},
    checksums={"default": True, "help": "Read all data and verify them, if the file system has checksums."},
)
def fsck(hostfile: Path, checksums: bool, repair: bool, json: bool) -> None:
    """Check records, link counts, chunks and sizes over all daemons, which must run."""
    from gkfs.commands import survey  # imports trio

    hosts = hostfiles.read(hostfile)
    begun_s = time.monotonic()
    report = survey.check(hosts, repair=repair, verify=checksums)
    duration_s = time.monotonic() - begun_s
    lines = _lines(report)
    if json:
        terminal.print_json(_document(hosts.fsid, report, lines, duration_s))
    else:
        for fault, repaired in lines:
            terminal.say(terminal.one_line(str(fault)) + ("; repaired" if repaired else ""))
        terminal.say(_summary(report, lines, duration_s))
    for reason in report.refused:
        terminal.warn(reason)
    _end(lines)


def _lines(report: "Report") -> list[tuple["Fault", bool]]:
    """All faults, and which are repaired; what only came to light afterwards is at the end."""
    remaining = {fault.identity for fault in report.remaining}
    found = {fault.identity for fault in report.faults}
    lines = [(fault, fault.identity not in remaining) for fault in report.faults]
    return lines + [(fault, False) for fault in report.remaining if fault.identity not in found]


def _summary(report: "Report", lines: list[tuple["Fault", bool]], duration_s: float) -> str:
    summary = report.summary
    repaired = sum(repaired for _, repaired in lines)
    verified = f", {summary.verified} verified" if summary.verified else ""
    return (
        f"{summary.records} records: {summary.files} files, {summary.directories} directories, "
        f"{summary.links} links, {summary.orphans} open without a name; "
        f"{summary.chunks} chunks, {bytes_text(summary.chunk_bytes)}{verified}; "
        f"{len(lines)} faults, {repaired} repaired; {duration_s:.1f} s"
    )


def _document(fsid: str, report: "Report", lines: list[tuple["Fault", bool]], duration_s: float) -> dict[str, Any]:
    return {
        "fsid": fsid,
        **report.summary._asdict(),
        "faults": [
            {
                "kind": str(fault.kind),
                "where": fault.where,
                "daemon": fault.daemon,
                "facts": fault.facts,
                "repaired": repaired,
            }
            for fault, repaired in lines
        ],
        "seconds": round(duration_s, 3),
    }


def _end(lines: list[tuple["Fault", bool]]) -> None:
    remain = sum(not repaired for _, repaired in lines)
    if remain:
        raise GkfsError(f"{remain} fault{'' if remain == 1 else 's'} in the file system", ExitStatus.FAULTS)
    if lines:
        raise GkfsError(f"{len(lines)} fault{'' if len(lines) == 1 else 's'} repaired", ExitStatus.MENDED)
