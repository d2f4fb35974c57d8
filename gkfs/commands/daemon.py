"""`gkfs daemon`: one daemon in the foreground, for srun and systemd, and behind `gkfs start` and `gkfs run`."""

import logging
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gkfs import config, garbage
from gkfs.commands import children, hostfiles, rootdirs
from gkfs.commands.features import Wanted
from gkfs.commands.options import verb
from gkfs.config import DEBUG_VARIABLE
from gkfs.errors import ExitStatus, GkfsError

if TYPE_CHECKING:
    from gkfs.daemon.server import DaemonSettings

_EPILOG = """\b
Examples:
  srun --ntasks-per-node=1 gkfs daemon -r /local/data -H hosts -n $SLURM_NNODES &
  gkfs daemon -r /local/data -H hosts -n 2 --index 0 --listen tcp://node1:7000
"""
_WILDCARDS = ("0.0.0.0", "::")


@verb(
    "daemon",
    _EPILOG,
    rootdir={"required": True, "help": "Existing folder; this daemon keeps its data in ROOTDIR/daemon-I."},
    hostfile={"required": True, "help": "File the daemon adds its line to."},
    daemons={"help": "Number of daemons; with it a missing hostfile is made."},
    index={"required": True, "envvar": ["GKFS_INDEX", "SLURM_PROCID"]},
    listen={"default": "tcp://0.0.0.0:0", "help": "Address to listen on; port 0 takes a free one."},
    tls={"default": None},
    checksums={"default": None},
)
@click.option("--die-with", type=int, hidden=True)
@click.option("--until-killed", is_flag=True, hidden=True)
def daemon(
    rootdir: Path,
    hostfile: Path,
    daemons: int | None,
    index: int,
    listen: str,
    advertise: str | None,
    capacity: int | None,
    checksums: bool | None,
    sync: str | None,
    tls: bool | None,
    replicas: int | None,
    die_with: int | None,
    until_killed: bool,
) -> None:
    """Run one daemon in the foreground, until SIGTERM or `gkfs stop`.

    Of many that start at once with -n the first makes the hostfile, the others join its file system.
    """
    if die_with is not None:
        children.die_with_parent(die_with, signal.SIGKILL if until_killed else signal.SIGTERM)
    join(hostfile, rootdir, index, daemons, Wanted(checksums, sync, tls, replicas))
    from gkfs.daemon.process import run_daemon  # imports trio and rocksdict

    set_up_logging()
    garbage.look_seldom()
    run_daemon(settings(rootdir, hostfile, index, listen, advertise, capacity, until_killed=until_killed))


def settings(
    rootdir: Path,
    hostfile: Path,
    index: int,
    listen: str,
    advertise: str | None,
    capacity: int | None,
    *,
    until_killed: bool = False,
) -> "DaemonSettings":
    """What the daemon is told; see `daemon`."""
    from gkfs.daemon.server import DaemonSettings
    from gkfs.transport import tcp_address

    if advertise is None and tcp_address(listen)[0] in _WILDCARDS:
        advertise = socket.gethostname()  # "all my addresses" is none that others could call
    folder = rootdirs.daemon_folder(rootdir, index)
    environ = os.environ
    return DaemonSettings(
        folder,
        hostfile,
        index,
        listen,
        advertise,
        until_killed,
        config.merges(environ),
        config.does_direct_io(environ),
        capacity or 0,
        config.keeps_log(environ),
    )


def set_up_logging(file: Path | None = None) -> None:
    """Log lines with their time to stderr, or to *file*; with GKFS_DEBUG everything there is to say."""
    level = logging.DEBUG if os.environ.get(DEBUG_VARIABLE) else logging.INFO
    logging.basicConfig(filename=file, level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def join(hostfile: Path, rootdir: Path, index: int, daemons: int | None, wanted: Wanted) -> None:
    """Make sure that daemon *index* can start; the hostfile is made when it is missing and *daemons* are known.

    Raises GkfsError (ROOTDIR, HOSTFILE).
    """
    rootdirs.check_usable(rootdir)
    hosts = hostfiles.read_if_there(hostfile)
    if hosts is None and daemons is not None:
        hostfile.unlink(missing_ok=True)  # an empty one
        known = rootdirs.read_contents(rootdirs.daemon_folder(rootdir, index))
        features = wanted.of_rootdir(known.features, f"rootdir {rootdir}") if known else wanted.fresh()
        fsid = known.fsid if known else hostfiles.new_fsid()
        hostfiles.create(hostfile, fsid, daemons, features=features)
    hosts = hosts or hostfiles.read(hostfile)
    wanted.check(hosts.features, f"hostfile {hostfile}")
    if daemons not in (None, hosts.daemon_count):
        raise GkfsError(
            f"hostfile {hostfile} is of a file system of {hosts.daemon_count} daemons, not of {daemons}",
            ExitStatus.HOSTFILE,
        )
    if index >= hosts.daemon_count:
        raise GkfsError(
            f"daemon {index} of a file system of {hosts.daemon_count}: the last one has index "
            f"{hosts.daemon_count - 1} (hostfile {hostfile})",
            ExitStatus.HOSTFILE,
        )
