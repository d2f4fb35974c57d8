"""Which chunks were written since they were last brought to the disk."""

from gkfs.limits import SCAN_PAGE_RECORDS, UNSYNCED_FILES_MAX


class Unsynced:
    """By file, for `UNSYNCED_FILES_MAX` files."""

    def __init__(self) -> None:
        self._chunks: dict[int, set[int] | None] = {}  # None: too many to tell them apart
        self._has_forgotten = False  # files not in it may have unsynced chunks, too

    def note(self, fid: int, chunk: int) -> None:
        """The chunk was written."""
        try:
            known = self._chunks[fid]
        except KeyError:
            if len(self._chunks) >= UNSYNCED_FILES_MAX:
                del self._chunks[next(iter(self._chunks))]
                self._has_forgotten = True
            self._chunks[fid] = {chunk}
            return
        if known is not None:
            known.add(chunk)
            if len(known) > SCAN_PAGE_RECORDS:
                self._chunks[fid] = None

    def note_all(self) -> None:
        """There are chunks of which nobody knows."""
        self._has_forgotten = True

    def take(self, fid: int) -> set[int] | None:
        """The chunks of *fid* to be synced, who calls does it; None: all there are."""
        if fid in self._chunks:
            return self._chunks.pop(fid)
        return None if self._has_forgotten else set()

    def forget(self, fid: int, chunk: int) -> None:
        """The chunk was removed."""
        known = self._chunks.get(fid)
        if known is not None:
            known.discard(chunk)
            if not known:
                del self._chunks[fid]
