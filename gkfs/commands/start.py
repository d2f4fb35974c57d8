"""`gkfs start`: the daemons of a file system on this machine, in the background."""

from pathlib import Path

from gkfs.commands import hostfiles, rootdirs, terminal
from gkfs.commands.launch import LOCAL_LISTEN, Launch, Launched, launch
from gkfs.commands.options import verb
from gkfs.commands.signals import Signals
from gkfs.errors import ExitStatus, GkfsError

_EPILOG = """\b
Examples:
  gkfs start -r /local/data -H hosts             one daemon
  gkfs start -r /local/data -H hosts -n 4        four, in /local/data/daemon-0 to daemon-3
  gkfs start -r /local/data -H hosts             later: the same file system again
  gkfs start -r /local/data -H hosts --listen tcp://0.0.0.0:7000   for other nodes, too
"""


@verb(
    "start",
    _EPILOG,
    rootdir={"required": True, "help": "Existing folder that holds the daemons' folders."},
    hostfile={"required": True, "help": "File to write; names the daemons to all others."},
    daemons={"help": "Number of daemons.  [default: 1, or as many as ROOTDIR holds]"},
    listen={"default": LOCAL_LISTEN, "help": "Address of the first daemon; the others take the next ports."},
)
def start(
    rootdir: Path, hostfile: Path, daemons: int | None, listen: str, advertise: str | None, json: bool
) -> None:
    """Start the daemons of a file system on this machine.

    Returns when all answer, or fails with the reason. A ROOTDIR that holds a file system brings it back.
    """
    rootdirs.check_usable(rootdir)
    with Signals() as signals:
        fsid, count = _choose(rootdir, daemons)
        _claim(hostfile, rootdir, fsid, count)
        try:
            launched = launch(Launch(rootdir, hostfile, count, listen, advertise, die_with_us=False), signals)
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


def _choose(rootdir: Path, daemons: int | None) -> tuple[str, int]:
    """The fsid and number of daemons: those of the file system in *rootdir*, or new ones."""
    found = rootdirs.existing_file_system(rootdir)
    if found is None:
        return hostfiles.new_fsid(), daemons or 1
    if daemons not in (None, found.daemon_count):
        raise GkfsError(
            f"rootdir {rootdir} holds a file system of {found.daemon_count} daemons, not of {daemons}; "
            f"omit -n to restart it",
            ExitStatus.ROOTDIR,
        )
    return found.fsid, found.daemon_count


def _claim(hostfile: Path, rootdir: Path, fsid: str, count: int) -> None:
    """Make the hostfile, or replace that of the same file system when none of its daemons runs."""
    old = hostfiles.read_if_there(hostfile)
    if old is None:
        hostfile.unlink(missing_ok=True)  # an empty one
        if not hostfiles.create(hostfile, fsid, count):
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
    hostfiles.replace(hostfile, fsid, count)


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
