"""Hostfiles that tests make themselves, each with its key."""

from pathlib import Path

from gkfs import hostfile
from gkfs.commands import hostfiles
from gkfs.hostfile import DaemonAddress, Features
from gkfs.keyfile import Access, Key

_PLAIN = Features()


def write_hosts(
    path: Path, fsid: str, daemons: int, *addresses: DaemonAddress, features: Features = _PLAIN
) -> Access:
    """Make or replace the hostfile at *path*, with a fresh key; what connections need."""
    path.unlink(missing_ok=True)
    hostfiles.create(path, fsid, daemons, Key.fresh(), features)
    with path.open("a") as file:
        file.writelines(map(hostfile.format_daemon, addresses))
    return hostfile.read(path).access
