"""`--checksums`, `--sync`, `--tls`, `--replicas`: what a file system is made with, a restart may ask for."""

from typing import Any, NamedTuple

from gkfs.errors import ExitStatus, GkfsError
from gkfs.hostfile import Features, Sync

_KEPT = (("checksums", "checksums"), ("tls", "TLS"))  # flags, and what people call them


class Wanted(NamedTuple):
    """The options as given; None without one."""

    checksums: bool | None = None
    sync: str | None = None
    tls: bool | None = None
    replicas: int | None = None

    @classmethod
    def of(cls, features: Features) -> "Wanted":
        """What asks for exactly these."""
        return cls(features.checksums, str(features.sync), features.tls, features.replicas)

    def arguments(self) -> list[str]:
        """The same as arguments, which hold whatever the environment says."""
        flags = [(field, getattr(self, field)) for field, _ in _KEPT]
        found = [f"--{'' if value else 'no-'}{field}" for field, value in flags if value is not None]
        found += ["--sync", self.sync] if self.sync else []
        return [*found, *(["--replicas", str(self.replicas)] if self.replicas else [])]

    def fresh(self) -> Features:
        """Of a new file system."""
        return Features(bool(self.checksums), Sync(self.sync or Sync.FSYNC), bool(self.tls), self.replicas or 1)

    def of_rootdir(self, known: Features, where: str) -> Features:
        """Of one that is in the rootdirs called *where* and starts again. Raises GkfsError (ROOTDIR)."""
        self._check_kept(known, where, ExitStatus.ROOTDIR)
        return known._replace(sync=Sync(self.sync or known.sync))

    def check(self, known: Features, where: str) -> None:
        """Raise GkfsError (HOSTFILE) unless the hostfile *where* is of a file system like that."""
        self._check_kept(known, where, ExitStatus.HOSTFILE)
        if self.sync not in (None, known.sync):
            reason = f"{where} is of a file system with --sync {known.sync}, not {self.sync}"
            raise GkfsError(reason, ExitStatus.HOSTFILE)

    def _check_kept(self, known: Features, where: str, status: ExitStatus) -> None:
        """What was chosen when the file system was made stays."""
        for field, name in _KEPT:
            asked, has = getattr(self, field), getattr(known, field)
            if asked not in (None, has):
                with_it = ("without", "with")
                reason = f"{where} is of a file system {with_it[has]} {name}, not {with_it[not has]}"
                raise GkfsError(reason, status)
        if self.replicas not in (None, known.replicas):
            reason = f"{where} is of a file system with --replicas {known.replicas}, not {self.replicas}"
            raise GkfsError(reason, status)


def take_wanted(options: dict[str, Any]) -> Wanted:
    """Take the options of `Wanted` out of those that click gives."""
    return Wanted(**{field: options.pop(field) for field in Wanted._fields})
