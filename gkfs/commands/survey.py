"""Checking a running file system: all daemons are read in parallel, and what is at fault is mended if wished.

What is right is clear after one look. What is not may be under way: link counts and sizes arrive late, and work in
the background ends by itself. So it is looked at again, for a bounded time, before it counts as a fault.
"""

import os
import stat
import time
from collections.abc import Awaitable, Callable
from itertools import groupby
from typing import NamedTuple, TypeVar

import trio

from gkfs import paths
from gkfs.audit_messages import (
    AuditFilesRequest,
    AuditStoreRequest,
    MendRequest,
)
from gkfs.commands.control import Conversation
from gkfs.daemon.faults import Change, CutFile, Fault, Kind, MakeDirectory, Repair, Summary
from gkfs.daemon.inspection import CHUNK_RANGE, STORE_RANGES, Inspection
from gkfs.distributor import Distributor
from gkfs.errors import ExitStatus, GkfsError
from gkfs.hostfile import Hostfile
from gkfs.limits import FSCK_ROUNDS_MAX, FSCK_SETTLE_S, FSCK_TIMEOUT_S, FSCK_UNFINISHED_S, POLL_INTERVAL_S
from gkfs.messages import (
    CreateRequest,
    CutChunksRequest,
    Empty,
)
from gkfs.metadentry import is_directory_record
from gkfs.operations import AUDIT_FILES, AUDIT_STORE, CREATE, CUT_CHUNKS, MEND, STATUS, Operation, Q, R

_POLL_MAX_S = 0.5
_MODE = stat.S_IFDIR | 0o700  # of directories made to mend something: what is in them was not everybody's

T = TypeVar("T")


class Report(NamedTuple):
    """What a check has found. *refused*: why repairs were not made."""

    faults: list[Fault]
    remaining: list[Fault]
    summary: Summary
    refused: list[str]


def check(hosts: Hostfile, *, repair: bool = False) -> Report:
    """Check the file system; with *repair* also mend it and check again. Raises GkfsError."""
    return trio.run(check_async, hosts, repair, strict_exception_groups=True)


async def check_async(hosts: Hostfile, repair: bool = False) -> Report:
    """As `check`, where trio runs already."""
    if hosts.missing:
        reason = f"daemon {hosts.missing[0]} is not in the hostfile: it has not started"
        raise GkfsError(reason, ExitStatus.UNREACHABLE)
    daemons: dict[int, Conversation] = {}
    try:

        async def begin(index: int) -> None:
            daemons[index] = await Conversation.begin(hosts.daemons[index], hosts.access)

        await _for_each(range(hosts.daemon_count), begin)
        survey = _Survey(daemons)
        faults, summary = await survey.settled()
        remaining = faults
        if repair:
            remaining, summary = await survey.mend(faults, summary)
        return Report(faults, remaining, summary, survey.refused)
    finally:
        for daemon in daemons.values():
            daemon.close()


async def _for_each(indexes: range, work: Callable[[int], Awaitable[None]]) -> None:
    """Do *work* for all at once. Raises the first GkfsError, not in a group."""
    errors: list[GkfsError] = []

    async def one(index: int) -> None:
        try:
            await work(index)
        except GkfsError as error:
            errors.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for index in indexes:
            nursery.start_soon(one, index)
    if errors:
        raise errors[0]


class _Survey:
    """Looks at the file system of all *daemons*, and mends it."""

    def __init__(self, daemons: dict[int, Conversation]) -> None:
        self._daemons = daemons
        self._count = len(daemons)
        self.refused: list[str] = []

    async def settled(self) -> tuple[list[Fault], Summary]:
        """What is wrong and does not come right by itself."""
        begun_s = time.monotonic()
        faults, summary = await self._look([])
        delay_s = POLL_INTERVAL_S
        while faults:
            await trio.sleep(delay_s)
            delay_s = min(2 * delay_s, _POLL_MAX_S)
            before = faults
            last = time.monotonic() > begun_s + _patience_s(faults)  # a look may take longer than all patience
            faults, summary = await self._look(before)
            if last:
                known = {fault.identity for fault in before}
                return [fault for fault in faults if fault.identity in known], summary
        return [], summary

    async def _look(self, before: list[Fault]) -> tuple[list[Fault], Summary]:
        inspection = Inspection(self._count, before)

        async def read_store(index: int) -> None:
            for first, end in STORE_RANGES:
                more = True
                while more:
                    page = await self._ask(index, AUDIT_STORE, AuditStoreRequest(first, end))
                    inspection.take(index, zip(page.keys, page.values, strict=True))
                    more = page.more
                    first = page.keys[-1] + b"\0" if page.keys else end

        async def read_chunks(index: int) -> None:
            first, end = CHUNK_RANGE
            more = True
            while more:
                page = await self._ask(index, AUDIT_STORE, AuditStoreRequest(first, end))
                inspection.take_index(index, page.keys, page.sizes)
                more = page.more
                first = page.keys[-1] + b"\0" if page.keys else end
            after, more = b"", True
            while more:
                files = await self._ask(index, AUDIT_FILES, AuditFilesRequest(after))
                inspection.take_files(index, files.names, files.sizes)
                after = files.after
                more = bool(after)
            inspection.take_status(await self._ask(index, STATUS, Empty()))

        await _for_each(range(self._count), read_store)
        inspection.begin_chunks()
        await _for_each(range(self._count), read_chunks)
        return inspection.finish(), inspection.summary

    async def _ask(self, index: int, operation: Operation[Q, R], request: Q) -> R:
        try:
            return await self._daemons[index].ask(operation, request, FSCK_TIMEOUT_S)
        except OSError as error:
            raise GkfsError(f"daemon {index} answered {operation.name}: {error.strerror}") from None

    # --- repairs

    async def mend(self, faults: list[Fault], summary: Summary) -> tuple[list[Fault], Summary]:
        """Make the repairs of *faults* and of what they bring to light; what remains."""
        for _ in range(FSCK_ROUNDS_MAX):
            mendable = [fault for fault in faults if fault.repairs]
            if not mendable:
                break
            self.refused.clear()
            made = [await self._mend_one(fault) for fault in mendable]
            faults, summary = await self.settled()
            if not any(made):
                break
        return faults, summary

    async def _mend_one(self, fault: Fault) -> bool:
        """Whether the repairs of *fault* were made."""
        try:
            for daemon, group in groupby(fault.repairs, key=self._place):
                repairs = list(group)
                changes = [repair for repair in repairs if isinstance(repair, Change)]
                if changes:
                    _, keys, old, new = map(list, zip(*changes, strict=True))
                    await self._daemons[daemon[0]].ask(MEND, MendRequest(keys, old, new), FSCK_TIMEOUT_S)
                for repair in repairs:
                    if isinstance(repair, CutFile):
                        request = CutChunksRequest(repair.fid, 0)
                        await self._daemons[repair.daemon].ask(CUT_CHUNKS, request, FSCK_TIMEOUT_S)
                    elif isinstance(repair, MakeDirectory):
                        await self._make_directory(daemon[0], repair.path)
        except OSError as error:
            self.refused.append(f"{fault.where}: not repaired: {error.strerror}")
            return False
        return True

    def _place(self, repair: Repair) -> tuple[int, str]:
        """Repairs of one place that follow one another are made as one, if they are changes."""
        if isinstance(repair, MakeDirectory):
            return Distributor(self._count).path_owner(repair.path), "directory"
        return repair.daemon, type(repair).__name__

    async def _make_directory(self, daemon: int, path: bytes) -> None:
        request = CreateRequest(path, 0, _MODE, os.geteuid(), os.getegid(), 0, False, b"", time.time_ns())
        reply = await self._daemons[daemon].ask(CREATE, request, FSCK_TIMEOUT_S)
        if not is_directory_record(reply.record):
            raise NotADirectoryError(0, f"{paths.printable(path)} is no directory")


def _patience_s(faults: list[Fault]) -> float:
    is_unfinished = any(fault.kind is Kind.UNFINISHED for fault in faults)
    return FSCK_UNFINISHED_S if is_unfinished else FSCK_SETTLE_S
