"""`gkfs stop`: end a file system, wherever its daemons run."""

import time
from pathlib import Path

from gkfs.commands import cleaning, hostfiles, jobs, rootdirs, terminal
from gkfs.commands.jobs import Job
from gkfs.commands.options import verb
from gkfs.commands.signals import pause_until
from gkfs.errors import ExitStatus, GkfsError
from gkfs.gang import Member
from gkfs.gang_wire import GangEnded
from gkfs.hostfile import Hostfile
from gkfs.limits import END_GRACE_S, JOB_STOP_TIMEOUT_S, STOP_TIMEOUT_S

_EPILOG = """\b
Examples:
  gkfs stop                      in a job: unmount and end it on all nodes, remove its data
  gkfs stop -H hosts             the data stays; `gkfs start` on the same ROOTDIR brings it back
  gkfs stop -H hosts --purge     the data of this machine's daemons goes, too
"""


@verb("stop", _EPILOG, hostfile={"help": "Hostfile of the file system.  [default: that of this job]"})
def stop(hostfile: Path | None, purge: bool, json: bool) -> None:
    """End a file system: that of a job on all its nodes, or all daemons that a hostfile names.

    Returns when all are gone. Daemons that were gone before are named, and are no failure.
    """
    name = jobs.name_for(hostfile)
    if name is not None:
        _stop_job(name, json)
    elif hostfile is not None:
        _stop_daemons(hostfile, purge, json)


def _stop_job(name: str, json: bool) -> None:
    job = jobs.find(name)
    if job is None:
        if cleaning.clear(name):
            terminal.warn(f"job {name}: what a killed file system left on this node is removed")
            return
        raise GkfsError(f"job {name} has no file system here: no {jobs.state_folder(name)}", ExitStatus.HOSTFILE)
    try:
        visitor = Member.visit(job.gang)
    except GkfsError:
        _stop_without_leader(job)
        return
    warnings: list[str] = []
    left: list[str] = []
    try:
        visitor.send({"is": "stop"})
        answer = visitor.receive(JOB_STOP_TIMEOUT_S + 2 * END_GRACE_S)
        if answer is None:
            raise GkfsError(f"job {name}: its leader does not answer", ExitStatus.UNREACHABLE)
        warnings, left = answer["warnings"], answer["left"]
    except GangEnded:
        terminal.warn(f"job {name}: its leader ended while it was asked to")
    finally:
        visitor.close()
    for warning in [*warnings, *left[:-1]]:
        terminal.warn(warning)
    if json:
        terminal.print_json(
            {"fsid": job.fsid, "job": name, "hosts": job.hosts, "warnings": warnings, "left": left}
        )
    elif not left:
        terminal.say(
            f"file system {job.fsid} has ended on {len(job.hosts)} node{'s' if len(job.hosts) > 1 else ''}"
        )
    if left:
        raise GkfsError(left[-1])


def _stop_without_leader(job: Job) -> None:
    """The nodes end by themselves when their leader is killed; this one is looked after."""
    deadline_s = time.monotonic() + JOB_STOP_TIMEOUT_S
    while True:
        try:
            cleaning.clear(job.name)
        except GkfsError:
            if not pause_until(deadline_s):
                raise
        else:
            terminal.warn(f"job {job.name}: its leader is gone, its nodes end by themselves; nothing is left here")
            return


def _stop_daemons(hostfile: Path, purge: bool, json: bool) -> None:
    from gkfs.commands import control  # imports trio

    hosts = hostfiles.read(hostfile)
    # Where data is must be found out before the daemons go: a superblock names its owner.
    folders = {address.daemon: control.local_folder(address, hosts.fsid) for address in hosts.daemons.values()}
    outcomes = control.stop(hosts, time.monotonic() + STOP_TIMEOUT_S)
    failed = [error for error in outcomes.values() if isinstance(error, GkfsError)]
    gone_before = [*hosts.missing, *(index for index, stopped in outcomes.items() if stopped is False)]
    for index in sorted(gone_before):
        terminal.warn(f"{_name(hosts, index)} was already gone")
    for error in failed[:-1]:
        terminal.warn(str(error))
    if failed:  # the hostfile stays, so that it can be tried again
        raise failed[-1]
    purged = _purge(folders, hosts) if purge else []
    hostfiles.remove(hostfile)
    stopped = [index for index, done in outcomes.items() if done is True]
    if json:
        terminal.print_json(
            {"fsid": hosts.fsid, "stopped": stopped, "already_gone": sorted(gone_before), "purged": purged}
        )
    else:
        plural = "" if len(stopped) == 1 else "s"
        terminal.say(f"file system {hosts.fsid} has ended, {len(stopped)} daemon{plural} stopped")


def _purge(folders: dict[int, Path | None], hosts: Hostfile) -> list[str]:
    purged = []
    for index, folder in sorted(folders.items()):
        if folder is None:
            terminal.warn(f"{_name(hosts, index)} has no data on this machine: purge it where it ran")
        elif rootdirs.purge(folder, hosts.fsid, index):
            purged.append(str(folder))
    return purged


def _name(hosts: Hostfile, index: int) -> str:
    return str(hosts.daemons.get(index, f"daemon {index}"))
