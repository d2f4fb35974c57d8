"""`--checksums` and `--sync`: what a file system is made with, and what a restart may ask of one that is there."""

from typing import Any, NamedTuple

from gkfs.errors import ExitStatus, GkfsError
from gkfs.hostfile import Features, Sync


class Wanted(NamedTuple):
    """The options as given; *sync* is None without one."""

    checksums: bool = False
    sync: str | None = None

    def fresh(self) -> Features:
        """Of a new file system."""
        return Features(self.checksums, Sync(self.sync or Sync.FSYNC))

    def of_rootdir(self, known: Features, where: str) -> Features:
        """Of one that is in the rootdirs called *where* and starts again. Raises GkfsError (ROOTDIR)."""
        self._check_checksums(known, where, ExitStatus.ROOTDIR)
        return known._replace(sync=Sync(self.sync or known.sync))

    def check(self, known: Features, where: str) -> None:
        """Raise GkfsError (HOSTFILE) unless the hostfile *where* is of a file system like that."""
        self._check_checksums(known, where, ExitStatus.HOSTFILE)
        if self.sync not in (None, known.sync):
            reason = f"{where} is of a file system with --sync {known.sync}, not {self.sync}"
            raise GkfsError(reason, ExitStatus.HOSTFILE)

    def _check_checksums(self, known: Features, where: str, status: ExitStatus) -> None:
        if self.checksums and not known.checksums:
            reason = f"{where} is of a file system without checksums; it was made without --checksums"
            raise GkfsError(reason, status)


def take_wanted(options: dict[str, Any]) -> Wanted:
    """Take the options of `Wanted` out of those that click gives."""
    return Wanted(**{field: options.pop(field) for field in Wanted._fields})
