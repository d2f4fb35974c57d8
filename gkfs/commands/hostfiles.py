"""Making hostfiles and their keys: of many who try at once one wins, and nobody ever reads half of one."""

import os
import secrets
from pathlib import Path
from typing import Final

from gkfs import hostfile, keyfile
from gkfs.errors import ExitStatus, GkfsError
from gkfs.hostfile import Features, Hostfile
from gkfs.keyfile import Key
from gkfs.limits import REPLICAS_DAEMONS_LEAST

# So that a verb whose parameter is called hostfile has all of it here.
read = hostfile.read
read_addresses = hostfile.read_addresses

_PLAIN: Final = Features()


def read_if_there(path: Path) -> Hostfile | None:
    """As `gkfs.hostfile.read`, but None when there is no file or an empty one, as mktemp(1) leaves."""
    try:
        if path.is_file() and path.stat().st_size == 0:
            return None
    except OSError as error:
        raise _error(path, error.strerror or str(error)) from None
    return hostfile.read(path) if os.path.lexists(path) else None


def create(path: Path, fsid: str, daemon_count: int, key: Key | None = None, features: Features = _PLAIN) -> bool:
    """Make the key and the hostfile with its header; False when another process was first. Raises GkfsError.

    Without *key*, others who make a hostfile of the same *fsid* at this moment, and we, agree on one. Readers see
    the whole header or no file: it is written under another name and linked. The key is there before it.
    """
    if features.replicas > 1 and daemon_count < REPLICAS_DAEMONS_LEAST:
        reason = f"{features.replicas} replicas need {REPLICAS_DAEMONS_LEAST} daemons, not {daemon_count}"
        raise GkfsError(reason, ExitStatus.USAGE)
    made_key = keyfile.make(path, fsid, key)
    try:
        if _create(path, fsid, daemon_count, features):
            return True
    except BaseException:
        if made_key:
            keyfile.remove(path, fsid)
        raise
    if made_key and hostfile.read_addresses(path).fsid != fsid:
        keyfile.remove(path, fsid)
    return False


def _create(path: Path, fsid: str, daemon_count: int, features: Features) -> bool:
    temporary = _write_beside(path, fsid, daemon_count, features)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise _error(path, f"cannot be made: {error.strerror}") from None
    finally:
        os.unlink(temporary)
    return True


def replace(path: Path, fsid: str, daemon_count: int, features: Features = _PLAIN) -> None:
    """Put a fresh header, and a fresh key, in the place of those of a file system that is not running."""
    keyfile.make(path, fsid, Key.fresh())
    temporary = _write_beside(path, fsid, daemon_count, features)
    try:
        os.replace(temporary, path)
    except OSError as error:
        os.unlink(temporary)
        raise _error(path, f"cannot be replaced: {error.strerror}") from None


def remove(path: Path) -> None:
    """Remove the hostfile and its key, if they are still there. Raises GkfsError (HOSTFILE)."""
    try:
        fsid = hostfile.read_addresses(path).fsid
    except GkfsError:
        fsid = ""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _error(path, f"cannot be removed: {error.strerror}") from None
    if fsid:
        keyfile.remove(path, fsid)


def new_fsid() -> str:
    """32 hexadecimal digits that no other file system has."""
    return secrets.token_hex(16)


def _write_beside(path: Path, fsid: str, daemon_count: int, features: Features) -> Path:
    temporary = path.parent / f".{path.name[:200]}.{secrets.token_hex(8)}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(hostfile.format_header(fsid, daemon_count, features))
    except OSError as error:
        raise _error(path, f"cannot be made: {error.strerror}") from None
    return temporary


def _error(path: Path, reason: str) -> GkfsError:
    return GkfsError(f"hostfile {path}: {reason}", ExitStatus.HOSTFILE)
