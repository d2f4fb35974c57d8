"""What an inspection keeps of the files it looks at closely, and the repairs of their records. Pure."""

from gkfs import metadentry
from gkfs.daemon.faults import Change, Fault, Kind, Repair, file_name, key_name


class Kept:
    """Daemon, key and value of each record of certain files; *fids* says which."""

    def __init__(self, fids: frozenset[int]) -> None:
        self._fids = fids
        self._kept: dict[int, list[tuple[int, bytes, bytes]]] = {}

    def offer(self, fid: int, daemon: int, key: bytes, value: bytes) -> None:
        """A record of the file *fid*."""
        if fid in self._fids:
            self._kept.setdefault(fid, []).append((daemon, key, value))

    def of(self, fid: int) -> list[tuple[int, bytes, bytes]]:
        """All records of the file *fid*, links included."""
        return self._kept.get(fid, [])

    def _one(self, fid: int) -> tuple[int, bytes, bytes] | None:
        """The one record that is no link, if there is exactly one."""
        kept = [found for found in self.of(fid) if not metadentry.is_link_record(found[2])]
        return kept[0] if len(kept) == 1 else None

    def renumber(self, fid: int, nlink: int) -> tuple[Repair, ...]:
        """Set the link count of the file *fid*."""
        found = self._one(fid)
        if found is None:
            return ()
        daemon, key, value = found
        return (Change(daemon, key, value, metadentry.encode(metadentry.decode(value).changed(nlink=nlink))),)

    def grow(self, fid: int, end: int) -> Fault:
        """The fault that the file *fid* has data up to byte *end*, beyond its size."""
        found = self._one(fid)
        if found is None:
            return Fault(Kind.BEYOND, file_name(fid), 0, f"data up to byte {end}", fid)
        daemon, key, value = found
        entry = metadentry.decode(value)
        facts = f"{key_name(key)}: data up to byte {end}, size {entry.size}"
        change = Change(daemon, key, value, metadentry.encode(entry.changed(size=max(end, entry.size))))
        return Fault(Kind.BEYOND, file_name(fid), daemon, facts, fid, (change,))
