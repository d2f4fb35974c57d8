"""`gkfs stop`: end all daemons of a file system, wherever they run."""

import time
from pathlib import Path

from gkfs.commands import hostfiles, rootdirs, terminal
from gkfs.commands.options import verb
from gkfs.errors import GkfsError
from gkfs.hostfile import Hostfile
from gkfs.limits import STOP_TIMEOUT_S

_EPILOG = """\b
Examples:
  gkfs stop -H hosts             the data stays; `gkfs start` on the same ROOTDIR brings it back
  gkfs stop -H hosts --purge     the data of this machine's daemons goes, too
"""


@verb("stop", _EPILOG, hostfile={"required": True})
def stop(hostfile: Path, purge: bool, json: bool) -> None:
    """Stop all daemons of a file system and remove its hostfile.

    Returns when all are gone. Daemons that were gone before are named, and are no failure.
    """
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
