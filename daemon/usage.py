"""USAGE: what a subtree holds, counted by each daemon from its own records; the sums over all add up.

Counting lets others run after each page of records, and answers after a while with what it has: whoever asked goes
on from there. Records are not decoded but looked at, at fixed offsets.
"""

import time
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import trio

from gkfs import metadentry, paths
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.guards import Guards
from gkfs.daemon.session import Session
from gkfs.daemon.store import MetadataStore
from gkfs.limits import USAGE_ANSWER_BYTES, USAGE_ANSWER_S
from gkfs.operations import USAGE
from gkfs.tally import Tally
from gkfs.usage_messages import UsageReply, UsageRequest

_TALLY_BYTES: Final = 800  # on the wire, with something in every class
_LINKED_BYTES: Final = 16


class Usage:
    """The handler."""

    def __init__(self, store: MetadataStore, guards: Guards) -> None:
        self._store = store
        self._guards = guards

    def register(self, dispatcher: Dispatcher) -> None:
        """Have *dispatcher* serve it."""
        dispatcher.serve(USAGE, self.usage)

    def usage(self, session: Session, request: UsageRequest) -> Coroutine[Any, Any, UsageReply]:
        if self._guards.active:
            self._guards.check_list(request.path)
        return self._usage(request)

    async def _usage(self, request: UsageRequest) -> UsageReply:
        count = _Count(request)
        until_s = time.monotonic() + USAGE_ANSWER_S
        if not request.after:
            record = self._store.get(paths.key(request.path))
            if record is not None:
                count.top(record)
        for first, end in (paths.children_range(request.path), paths.deeper_range(request.path)):
            if request.after >= end:
                continue
            for page in self._store.pages(max(first, request.after + b"\0"), end):
                taken = count.take(page)
                if taken < len(page) or time.monotonic() > until_s:
                    return count.reply(page[taken - 1][0])
                await trio.lowlevel.checkpoint()
        return count.reply(b"")


class _Count:
    """Adds up records under the directories they count for."""

    def __init__(self, request: UsageRequest) -> None:
        self._top = request.path
        self._depth = request.depth
        self._now_ns = request.now_ns
        self._tallies: dict[bytes, Tally] = {}
        self._linked: list[tuple[int, bytes]] = []
        self._room_bytes = USAGE_ANSWER_BYTES

    def top(self, record: bytes) -> None:
        """What stands under the path itself."""
        self._add(self._top, self._tally(self._top), record)

    def take(self, page: Sequence[tuple[bytes, bytes]]) -> int:
        """Keys and records below the path; of how many there was room for the answer, at least one."""
        last, group, tally, own_depth = None, b"", Tally(), False
        for number, (key, record) in enumerate(page):
            if self._room_bytes <= 0:
                return number
            parent, _, name = key.partition(b"\0")
            if parent != last:  # the children of a directory follow one another
                last = parent
                group, depth = self._group(parent)
                tally = self._tally(group)
                own_depth = depth < self._depth
            if own_depth and metadentry.is_directory_record(record):
                own = paths.join(parent, name)
                self._add(own, self._tally(own), record)
            else:
                self._add(group, tally, record)
        return len(page)

    def reply(self, after: bytes) -> UsageReply:
        """All of it; *after* for whoever goes on."""
        directories = [path for path, tally in self._tallies.items() if tally.entries]
        directories += {path for _, path in self._linked} - set(directories)
        numbers = {path: number for number, path in enumerate(directories)}
        return UsageReply(
            directories,
            [self._tallies[path].pack() for path in directories],
            [fid for fid, _ in self._linked],
            [numbers[path] for _, path in self._linked],
            after,
        )

    def _group(self, directory: bytes) -> tuple[bytes, int]:
        """Which directory the contents of *directory* count for, and how deep below the path *directory* is."""
        if directory == self._top:
            return self._top, 0
        start = len(self._top) + (self._top != paths.ROOT)
        names = directory[start:].split(b"/")
        if len(names) <= self._depth:
            return directory, len(names)
        return paths.join(self._top, b"/".join(names[: self._depth])) if self._depth else self._top, len(names)

    def _tally(self, directory: bytes) -> Tally:
        tally = self._tallies.get(directory)
        if tally is None:
            tally = self._tallies[directory] = Tally()
            self._room_bytes -= len(directory) + _TALLY_BYTES
        return tally

    def _add(self, group: bytes, tally: Tally, record: bytes) -> None:
        if metadentry.is_link_record(record):
            self._linked.append((metadentry.fid_of(record), group))
            self._room_bytes -= _LINKED_BYTES
        else:
            tally.add_entry(*metadentry.mode_size_mtime(record), self._now_ns)
