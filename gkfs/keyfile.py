"""The key of a file system, and the file that holds it, beside the hostfile.

    hosts                                            the hostfile
    hosts.5f0c6f6d1c2b4b0e9a51d6c2c3f0a911.key       mode 0600: "gkfs-key 1 " and 64 hexadecimal digits

Who has the key may do everything with the file system; who has not is not spoken to. It is in no other file, on no
command line, and nothing prints it. The file's name has that of the hostfile: two in one folder, of the same file
system, have keys of their own. It has the fsid, too: of many daemons that make the hostfile at the same time one
wins, and the key that counts is the one that belongs to it.
"""

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final, NamedTuple, Self

from gkfs.errors import ExitStatus, GkfsError

KEY_BYTES: Final = 32
PROOF_BYTES: Final = hashlib.sha256().digest_size
_TEXT = re.compile(rb"gkfs-key 1 ([0-9a-f]{64})\n")
_TEXT_BYTES: Final = 128  # more than a key file has
_NAME_CHARACTERS: Final = 200  # of the hostfile's name: with the rest below NAME_MAX
_MODE: Final = 0o600


class Key:
    """32 random bytes. What it proves can be seen, the key itself only by `write`."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(secret)}")
        self._secret = secret

    @classmethod
    def fresh(cls) -> Self:
        """One that nobody else has."""
        return cls(secrets.token_bytes(KEY_BYTES))

    def derived(self, purpose: bytes) -> "Key":
        """Another key, which tells nothing of this one."""
        return Key(self.proof(b"derived key: " + purpose))

    def proof(self, text: bytes) -> bytes:
        """What only who has the key can say of *text*: HMAC-SHA256."""
        return hmac.digest(self._secret, text, "sha256")

    def write(self, descriptor: int) -> None:
        """Write the contents of a key file. Raises OSError."""
        os.write(descriptor, b"gkfs-key 1 %s\n" % self._secret.hex().encode())

    def __repr__(self) -> str:
        return "Key(...)"  # also where a traceback or a log shows what holds it


class Access(NamedTuple):
    """What daemons and those they serve have in common. *tls*: they speak TLS over TCP, and nothing else."""

    fsid: str
    key: Key
    tls: bool = False


def path_of(hostfile: Path, fsid: str) -> Path:
    """The key file that belongs to *hostfile*, beside the file itself where that is a symbolic link."""
    real = Path(os.path.realpath(hostfile))
    return real.with_name(f"{real.name[:_NAME_CHARACTERS]}.{fsid}.key")


def read(hostfile: Path, fsid: str) -> Key:
    """The key of file system *fsid*. Raises GkfsError (ACCESS): this user has none, or it is no secret."""
    path = path_of(hostfile, fsid)
    try:
        # Not to wait for a FIFO that somebody has put there.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            text = os.read(descriptor, _TEXT_BYTES) if stat.S_ISREG(status.st_mode) else b""
        finally:
            os.close(descriptor)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise _error(fsid, f"{path}: {reason}; only who started it, and root, have it") from None
    if status.st_uid != os.geteuid() and os.geteuid() != 0:
        raise _error(fsid, f"{path} is another user's (uid {status.st_uid})")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise _error(fsid, f"{path} may be read by others (mode {mode:04o}); `chmod 600` if nobody has")
    found = _TEXT.fullmatch(text)
    if found is None:
        raise _error(fsid, f"{path} is not a key file")
    return Key(bytes.fromhex(found[1].decode()))


def make(hostfile: Path, fsid: str, key: Key | None = None) -> bool:
    """Make the key file; without *key* a fresh one, unless there is a file already. Whether it was made.

    A given *key* replaces what is there. Nobody ever reads half a key. Raises GkfsError (HOSTFILE).
    """
    path = path_of(hostfile, fsid)
    try:
        temporary = _write_beside(path, key or Key.fresh())
        try:
            if key is not None:
                os.rename(temporary, path)
                return True
            os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError:
        return False
    except OSError as error:
        raise GkfsError(f"key {path}: cannot be made: {error.strerror}", ExitStatus.HOSTFILE) from None
    return True


def remove(hostfile: Path, fsid: str) -> None:
    """Remove the key file, if it is still there. Raises GkfsError (HOSTFILE)."""
    path = path_of(hostfile, fsid)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise GkfsError(f"key {path}: cannot be removed: {error.strerror}", ExitStatus.HOSTFILE) from None


def _write_beside(path: Path, key: Key) -> Path:
    temporary = path.with_name(f".{secrets.token_hex(16)}.key")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        os.fchmod(descriptor, _MODE)
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode != _MODE:  # a file system without Unix modes
            raise GkfsError(f"key {path}: others could read it there (mode {mode:04o})", ExitStatus.HOSTFILE)
        key.write(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    finally:
        os.close(descriptor)
    return temporary


def _error(fsid: str, reason: str) -> GkfsError:
    return GkfsError(f"no key for file system {fsid}: {reason}", ExitStatus.ACCESS)
