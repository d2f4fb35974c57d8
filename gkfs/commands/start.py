"""`gkfs start`: a file system on all nodes of a job, or the daemons of one machine, in the background."""

import shlex
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from gkfs.commands import hostfiles, rootdirs, terminal
from gkfs.commands.features import Wanted, take_wanted
from gkfs.commands.jobs import Job
from gkfs.commands.keeper import start_keeper
from gkfs.commands.launch import LOCAL_LISTEN, Launch, Launched, launch
from gkfs.commands.launchers import Launcher, Places
from gkfs.commands.mount import Options
from gkfs.commands.options import verb
from gkfs.commands.signals import Signals
from gkfs.commands.wishes import take_spread
from gkfs.errors import ExitStatus, GkfsError
from gkfs.hostfile import Features
from gkfs.keyfile import Key

_EPILOG = """\b
Examples: in a Slurm job, on all its nodes:
  eval "$(gkfs start)"                           daemons and mounts; then $GKFS_MOUNTDIR is there
  eval "$(gkfs start -m /mnt/job -n 2)"          two daemons on each node, mounted on /mnt/job
  gkfs start --env-file env && . ./env           the variables in a file
  eval "$(gkfs start --hosts a,b,c)"             without Slurm: these hosts, by ssh
On one machine, daemons only, until `gkfs stop`:
  gkfs start -r /local/data -H hosts -n 4        four, in /local/data/daemon-0 to daemon-3
  gkfs start -r /local/data -H hosts             later: the same file system again
  gkfs start -r /local/data -H hosts --listen tcp://0.0.0.0:7000   for other nodes, too
"""


@verb(
    "start",
    _EPILOG,
    rootdir={"help": "Existing folder that holds the daemons' folders.  [default in a job: searched]"},
    mountdir={"help": "Folder the file system appears in.  [default in a job: /tmp/gkfs-UID/JOB/mnt]"},
    hostfile={"help": "File to write; names the daemons to all others."},
    daemons={"help": "Number of daemons, in a job of each node.  [default: 1, or as many as ROOTDIR holds]"},
    listen={"help": "Address of the first daemon; the others take the next ports.  [default: any port]"},
    tls={"default": None},
    checksums={"default": None},
)
def start(
    rootdir: Path | None,
    mountdir: Path | None,
    hostfile: Path | None,
    daemons: int | None,
    listen: str | None,
    advertise: str | None,
    capacity: int | None,
    log: Path | None,
    env_file: Path | None,
    json: bool,
    **options: Any,
) -> None:
    """Start a file system: in a job on all its nodes, mounted; else the daemons of this machine.

    Returns when it is usable, or fails with the reason. In a job it prints the variables that steps need.
    """
    spread = take_spread(options)
    wanted = take_wanted(options)
    places = spread.places()
    if _is_job(places):
        how = Options(**options)
        wishes = spread.wishes(places, rootdir, mountdir, daemons, listen, how, log, wanted.fresh(), capacity)
        job, count = start_keeper(wishes)
        _tell(job, count, env_file, json)
    elif rootdir is None or hostfile is None:
        missing = "--rootdir" if rootdir is None else "--hostfile"
        raise click.UsageError(f"Missing option '{missing}' (there is no job here).", click.get_current_context())
    else:
        _start_here(rootdir, hostfile, daemons, wanted, listen or LOCAL_LISTEN, advertise, capacity, json)


def _is_job(places: Places) -> bool:
    """On one machine only if told so: by --launcher local, or by naming a place to mount on the command line."""
    if places.launcher is not Launcher.LOCAL:
        return True
    sources = {click.get_current_context().get_parameter_source(name) for name in ("launcher", "mountdir")}
    return ParameterSource.COMMANDLINE in sources


def _tell(job: Job, count: int, env_file: Path | None, json: bool) -> None:
    lines = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in job.environment().items())
    if env_file is not None:
        try:
            env_file.write_text(lines)
        except OSError as error:
            raise GkfsError(f"{env_file}: {error.strerror}; the file system runs: {lines.strip()}") from None
    plural = "s" if count > 1 else ""
    text = f"file system {job.fsid} runs: {count} daemon{plural}, {len(job.mounting)} x {job.mountdir}"
    if json:
        terminal.print_json(
            {"fsid": job.fsid, "job": job.name, "daemons": count, "hosts": job.hosts, **job.environment()}
        )
    elif sys.stdout.isatty() or env_file is not None:
        terminal.say(text)
    if not json and env_file is None:
        terminal.say(lines.rstrip())


def _start_here(
    rootdir: Path,
    hostfile: Path,
    daemons: int | None,
    wanted: Wanted,
    listen: str,
    advertise: str | None,
    capacity: int | None,
    json: bool,
) -> None:
    rootdirs.check_usable(rootdir)
    with Signals() as signals:
        fsid, count, features = _choose(rootdir, daemons, wanted)
        _claim(hostfile, rootdir, fsid, count, features)
        try:
            plan = Launch(rootdir, hostfile, count, listen, advertise, False, features, capacity)
            launched = launch(plan, signals)
        except BaseException:
            hostfiles.remove(hostfile)
            raise
    for daemon in launched.daemons:
        daemon.process.returncode = 0  # it goes on without us
    if json:
        terminal.print_json(_document(hostfile, launched))
    else:
        plural = "s" if count > 1 else ""
        terminal.say(f"file system {fsid} runs, {count} daemon{plural}; hostfile {hostfile}")


def _choose(rootdir: Path, daemons: int | None, wanted: Wanted) -> tuple[str, int, Features]:
    """The fsid, number of daemons, features: those of the file system in *rootdir*, or new ones."""
    found = rootdirs.existing_file_system(rootdir)
    if found is None:
        return hostfiles.new_fsid(), daemons or 1, wanted.fresh()
    if daemons not in (None, found.daemon_count):
        raise GkfsError(
            f"rootdir {rootdir} holds a file system of {found.daemon_count} daemons, not of {daemons}; "
            f"omit -n to restart it",
            ExitStatus.ROOTDIR,
        )
    return found.fsid, found.daemon_count, wanted.of_rootdir(found.features, f"rootdir {rootdir}")


def _claim(hostfile: Path, rootdir: Path, fsid: str, count: int, features: Features) -> None:
    """Make the hostfile, or replace that of the same file system when none of its daemons runs."""
    old = hostfiles.read_if_there(hostfile)
    if old is None:
        hostfile.unlink(missing_ok=True)  # an empty one
        if not hostfiles.create(hostfile, fsid, count, Key.fresh(), features):
            raise GkfsError(f"hostfile {hostfile} was made by another gkfs just now", ExitStatus.HOSTFILE)
        return
    from gkfs.commands import control  # imports trio

    alive = [index for index, answer in control.statuses(old).items() if not isinstance(answer, GkfsError)]
    if alive:
        raise GkfsError(
            f"hostfile {hostfile} is of a running file system, {old.fsid} (daemon {alive[0]} answers); "
            f"`gkfs stop -H {hostfile}` ends it",
            ExitStatus.HOSTFILE,
        )
    if old.fsid != fsid:
        raise GkfsError(
            f"hostfile {hostfile} is of another file system, {old.fsid}, than rootdir {rootdir}; "
            f"remove it if that one is not needed any more, or name another hostfile",
            ExitStatus.HOSTFILE,
        )
    hostfiles.replace(hostfile, fsid, count, features)


def _document(hostfile: Path, launched: Launched) -> dict[str, object]:
    daemons = [
        {
            "daemon": address.daemon,
            "pid": launched.statuses[address.daemon].pid,
            "host": address.host,
            "tcp": address.tcp,
            "unix": address.unix,
            "log": str(launched.daemons[address.daemon].log),
        }
        for address in sorted(launched.hosts.daemons.values())
    ]
    return {"fsid": launched.hosts.fsid, "hostfile": str(hostfile), "daemons": daemons}
