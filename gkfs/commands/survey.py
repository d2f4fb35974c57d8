"""Checking a running file system: all daemons are read in parallel, and what is at fault is mended if wished.

What is right is clear after one look. What is not may be under way: link counts and sizes arrive late, and work in
the background ends by itself. So it is looked at again, for a bounded time, before it counts as a fault.
"""

import os
import stat
import time
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
from gkfs.commands.damage import find_damage
from gkfs.commands.parallel import for_each
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


def check(hosts: Hostfile, *, repair: bool = False, verify: bool = True) -> Report:
    """Check the file system, *verify* its checksums, if it has any; with *repair* also mend it and check again.

    Raises GkfsError.
    """
    return trio.run(check_async, hosts, repair, verify, strict_exception_groups=True)


async def check_async(hosts: Hostfile, repair: bool = False, verify: bool = True) -> Report:
    """As `check`, where trio runs already."""
    if hosts.missing:
        reason = f"daemon {hosts.missing[0]} is not in the hostfile: it has not started"
        raise GkfsError(reason, ExitStatus.UNREACHABLE)
    daemons: dict[int, Conversation] = {}
    try:

        async def begin(index: int) -> None:
            daemons[index] = await Conversation.begin(hosts.daemons[index], hosts.access)

        await for_each(range(hosts.daemon_count), begin)
        survey = _Survey(daemons)
        faults, summary = await survey.settled()
        remaining = faults
        if repair:
            remaining, summary = await survey.mend(faults, summary)
        if verify and hosts.features.checksums:
            damaged, verified = await find_damage(hosts.daemon_count, survey.ask)
            faults, remaining = faults + damaged, remaining + damaged
            summary = summary._replace(verified=verified)
        return Report(faults, remaining, summary, survey.refused)
    finally:
        for daemon in daemons.values():
            daemon.close()


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
                    page = await self.ask(index, AUDIT_STORE, AuditStoreRequest(first, end))
                    inspection.take(index, zip(page.keys, page.values, strict=True))
                    more = page.more
                    first = page.keys[-1] + b"\0" if page.keys else end

        async def read_chunks(index: int) -> None:
            first, end = CHUNK_RANGE
            more = True
            while more:
                page = await self.ask(index, AUDIT_STORE, AuditStoreRequest(first, end))
                inspection.take_index(index, page.keys, page.sizes)
                more = page.more
                first = page.keys[-1] + b"\0" if page.keys else end
            after, more = b"", True
            while more:
                files = await self.ask(index, AUDIT_FILES, AuditFilesRequest(after))
                inspection.take_files(index, files.names, files.sizes)
                after = files.after
                more = bool(after)
            inspection.take_status(await self.ask(index, STATUS, Empty()))

        await for_each(range(self._count), read_store)
        inspection.begin_chunks()
        await for_each(range(self._count), read_chunks)
        return inspection.finish(), inspection.summary

    async def ask(self, index: int, operation: Operation[Q, R], request: Q) -> R:
        """What daemon *index* answers. Raises GkfsError."""
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
