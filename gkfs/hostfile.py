"""The hostfile: which daemons make up one file system, and where they listen. Parsing and formatting.

    gkfs-hostfile 1 fsid=5f0c6f6d1c2b4b0e9a51d6c2c3f0a911 daemons=2
    0 node1 tcp://10.0.0.1:40021 unix:///local/gkfs/daemon-0/socket
    1 node2 tcp://10.0.0.2:39985 unix:///local/gkfs/daemon-1/socket

The header may also name `Features`: `checksums=xxh3`, `sync=none`, `sync=commit`, `tls=1`, `replicas=2`. Who does
not know one of them refuses the file.

One header, then a line per daemon: index, host name, TCP address, Unix socket. Daemons append their own
line, so lines come in any order, and the last one for an index holds: a restarted daemon appends anew.
`-` stands for an address a daemon does not have. Blank lines and lines that start with `#` are ignored.

The hostfile is no secret. What lets in is the key beside it (`gkfs.keyfile`), which `read` reads, too.
"""

import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from gkfs import keyfile
from gkfs.errors import ExitStatus, GkfsError
from gkfs.keyfile import Access, Key
from gkfs.limits import DAEMONS_MAX, HOSTFILE_MAX_BYTES, REPLICAS_MAX

_HEADER = re.compile(r"gkfs-hostfile 1 fsid=([0-9a-f]{32}) daemons=([1-9][0-9]{0,4})((?: [a-z0-9]+=[a-z0-9]+)*)")
_TCP = re.compile(r"tcp://(?:\[[0-9a-fA-F:.%a-z]+\]|[^\s:/\[\]]+):([0-9]{1,5})")
_INDEX = re.compile(r"[0-9]{1,9}")
NO_ADDRESS = "-"
CHECKSUMS: Final = "xxh3"  # how blocks are summed, see `gkfs.daemon.block_sums`


class Sync(StrEnum):
    """What is brought to the disk when; docs/durability.md."""

    NONE = "none"  # nothing, not even by fsync
    FSYNC = "fsync"  # what fsync was called for
    COMMIT = "commit"  # everything, before it is answered


class Features(NamedTuple):
    """What was chosen for a file system when it was made; *sync* may be another one after each start."""

    checksums: bool = False
    sync: Sync = Sync.FSYNC
    tls: bool = False  # all that goes over TCP is encrypted
    replicas: int = 1  # 2: everything is on two daemons


_PLAIN: Final = Features()


class DaemonAddress(NamedTuple):
    """Where one daemon is: *tcp* as ``tcp://HOST:PORT``, *unix* as ``unix:///PATH``; `-` when it has none."""

    daemon: int  # index, from 0
    host: str
    tcp: str
    unix: str

    def __str__(self) -> str:
        return f"daemon {self.daemon} ({self.host}, {self.tcp if self.tcp != NO_ADDRESS else self.unix})"


class Hostfile(NamedTuple):
    """A parsed hostfile; *daemons* maps index to address and may be incomplete while daemons start.

    *key* is None when only addresses were asked for.
    """

    fsid: str  # 32 hexadecimal digits, unique to one file system
    daemon_count: int
    daemons: dict[int, DaemonAddress]
    key: Key | None = None
    features: Features = _PLAIN

    @property
    def access(self) -> Access:
        """What connections to the daemons need. Raises GkfsError (ACCESS) without a key."""
        if self.key is None:
            raise GkfsError(f"no key for file system {self.fsid} has been read", ExitStatus.ACCESS)
        return Access(self.fsid, self.key, self.features.tls)

    @property
    def complete(self) -> bool:
        return len(self.daemons) == self.daemon_count

    @property
    def missing(self) -> list[int]:
        """Indexes of daemons that have not written their line."""
        return [index for index in range(self.daemon_count) if index not in self.daemons]


def format_header(fsid: str, daemon_count: int, features: Features = _PLAIN) -> str:
    """The first line of a hostfile, newline included."""
    words = [f"gkfs-hostfile 1 fsid={fsid} daemons={daemon_count}"]
    words += [f"checksums={CHECKSUMS}"] if features.checksums else []
    words += [f"sync={features.sync}"] if features.sync is not Sync.FSYNC else []
    words += ["tls=1"] if features.tls else []
    words += [f"replicas={features.replicas}"] if features.replicas > 1 else []
    return " ".join(words) + "\n"


def format_daemon(address: DaemonAddress) -> str:
    """The line of one daemon, newline included."""
    return f"{address.daemon} {address.host} {address.tcp} {address.unix}\n"


def append(path: Path, address: DaemonAddress) -> None:
    """Have the hostfile say *address* last of its daemon. Raises OSError.

    It is written in one piece, so that lines of daemons that start at the same time do not mix.
    """
    line = format_daemon(address).encode()
    own = f"{address.daemon} ".encode()
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    try:
        known = os.pread(fd, HOSTFILE_MAX_BYTES, 0).splitlines(keepends=True)
        if [said for said in known if said.startswith(own)][-1:] != [line]:
            os.write(fd, line)
    finally:
        os.close(fd)


def read(path: Path) -> Hostfile:
    """The hostfile at *path* with its key. Raises GkfsError: HOSTFILE as `read_addresses`, ACCESS without key."""
    hosts = read_addresses(path)
    return hosts._replace(key=keyfile.read(path, hosts.fsid))


def read_addresses(path: Path) -> Hostfile:
    """The hostfile at *path*, without key. Raises GkfsError (HOSTFILE): it is missing, unreadable or garbled."""
    try:
        with open(path, "rb") as file:
            data = file.read(HOSTFILE_MAX_BYTES + 1)
        if len(data) > HOSTFILE_MAX_BYTES:
            reason = f"longer than {HOSTFILE_MAX_BYTES} bytes, so it is none"
            raise GkfsError(f"hostfile {path}: {reason}", ExitStatus.HOSTFILE)
        return parse(data.decode(), str(path))
    except OSError as error:
        hint = "; `gkfs start` makes it" if isinstance(error, FileNotFoundError) else ""
        raise GkfsError(f"hostfile {path}: {error.strerror}{hint}", ExitStatus.HOSTFILE) from None
    except UnicodeDecodeError:
        raise GkfsError(f"hostfile {path}: not a hostfile but binary data", ExitStatus.HOSTFILE) from None


def read_complete(path: Path) -> Hostfile:
    """As `read`, for who needs all daemons. Raises GkfsError (HOSTFILE) also when some are not in it."""
    hosts = read(path)
    if not hosts.complete:
        missing = ", ".join(map(str, hosts.missing[:10]))
        raise GkfsError(f"hostfile {path} lacks daemons {missing} of {hosts.daemon_count}", ExitStatus.HOSTFILE)
    return hosts


def parse(text: str, name: str) -> Hostfile:
    """The contents of the hostfile called *name* (for messages). Raises GkfsError naming the line at fault."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    header = _HEADER.fullmatch(lines[0][1]) if lines else None
    if header is None:
        raise _garbled(name, lines[0][0] if lines else 1, "expected 'gkfs-hostfile 1 fsid=... daemons=...'")
    fsid, daemon_count = header[1], int(header[2])
    if daemon_count > DAEMONS_MAX:
        raise _garbled(name, lines[0][0], f"{daemon_count} daemons, at most {DAEMONS_MAX} are possible")
    daemons: dict[int, DaemonAddress] = {}
    for number, line in lines[1:]:
        address = _parse_daemon(line, name, number, daemon_count)
        daemons[address.daemon] = address
    return Hostfile(fsid, daemon_count, daemons, features=_parse_features(header[3], name, lines[0][0]))


def _parse_features(text: str, name: str, number: int) -> Features:
    features = _PLAIN
    for word in text.split():
        if word == f"checksums={CHECKSUMS}":
            features = features._replace(checksums=True)
        elif word in (f"sync={Sync.NONE}", f"sync={Sync.COMMIT}"):
            features = features._replace(sync=Sync(word.partition("=")[2]))
        elif word == "tls=1":
            features = features._replace(tls=True)
        elif word == f"replicas={REPLICAS_MAX}":
            features = features._replace(replicas=REPLICAS_MAX)
        else:
            raise _garbled(name, number, f"{word!r} is nothing that this gkfs knows")
    return features


def _parse_daemon(line: str, name: str, number: int, daemon_count: int) -> DaemonAddress:
    fields = line.split()
    if len(fields) != 4 or not _INDEX.fullmatch(fields[0]):
        raise _garbled(name, number, "expected 'INDEX HOST tcp://HOST:PORT unix:///PATH'")
    address = DaemonAddress(int(fields[0]), *fields[1:])
    if address.daemon >= daemon_count:
        raise _garbled(name, number, f"daemon {address.daemon} of a file system of {daemon_count}")
    port = _TCP.fullmatch(address.tcp)
    if address.tcp != NO_ADDRESS and (port is None or not 0 < int(port[1]) < 65536):
        raise _garbled(name, number, f"{address.tcp!r} is not tcp://HOST:PORT")
    if address.unix != NO_ADDRESS and not address.unix.startswith("unix:///"):
        raise _garbled(name, number, f"{address.unix!r} is not unix:///PATH")
    if address.tcp == address.unix == NO_ADDRESS:
        raise _garbled(name, number, f"daemon {address.daemon} has no address")
    return address


def _garbled(name: str, number: int, reason: str) -> GkfsError:
    return GkfsError(f"hostfile {name}, line {number}: {reason}", ExitStatus.HOSTFILE)
