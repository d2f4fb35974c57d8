"""What subtrees hold: all daemons are asked in parallel, and what they counted is added up.

A file with several names counts once, for the first of the directories it is in; where its record is has to be
asked for each of them.
"""

import time

import trio

from gkfs import metadentry, paths
from gkfs.commands.control import Conversation, converse
from gkfs.distributor import Distributor
from gkfs.errors import ExitStatus, GkfsError
from gkfs.hostfile import Hostfile
from gkfs.limits import USAGE_TIMEOUT_S
from gkfs.messages import StatRequest
from gkfs.operations import STAT, USAGE
from gkfs.tally import Tally
from gkfs.usage_messages import UsageRequest


def count(hosts: Hostfile, subtrees: list[bytes], depth: int) -> list[dict[bytes, Tally]]:
    """For each subtree what its directories hold, down to *depth* below it, all below them included.

    Raises GkfsError: UNREACHABLE, or FAILURE when there is no such path.
    """
    return trio.run(count_async, hosts, subtrees, depth)


async def count_async(hosts: Hostfile, subtrees: list[bytes], depth: int) -> list[dict[bytes, Tally]]:
    """As `count`, where trio runs already."""

    async def work(daemons: dict[int, Conversation]) -> list[dict[bytes, Tally]]:
        return [await _count(path, depth, daemons) for path in subtrees]

    return await converse(hosts, work)


async def _count(top: bytes, depth: int, daemons: dict[int, Conversation]) -> dict[bytes, Tally]:
    now_ns = time.time_ns()
    found: dict[bytes, Tally] = {}
    linked: dict[int, bytes] = {}

    async def ask(index: int) -> None:
        after, more = b"", True
        while more:
            request = UsageRequest(top, depth, after, now_ns)
            reply = await daemons[index].ask(USAGE, request, USAGE_TIMEOUT_S)
            for path, packed in zip(reply.directories, reply.tallies, strict=True):
                found.setdefault(path, Tally()).add(Tally.unpack(packed))
            for fid, number in zip(reply.linked, reply.linked_in, strict=True):
                path = reply.directories[number]
                linked[fid] = min(linked.get(fid, path), path)
            after = reply.after
            more = bool(after)

    async with trio.open_nursery() as nursery:
        for index in daemons:
            nursery.start_soon(ask, index)
    distributor = Distributor(len(daemons))
    by_owner: dict[int, list[int]] = {}
    for fid in linked:
        by_owner.setdefault(distributor.path_owner(paths.inode_address(fid)), []).append(fid)

    async def look(index: int, fids: list[int]) -> None:
        for fid in fids:
            request = StatRequest(paths.inode_address(fid), fid)
            try:
                record = (await daemons[index].ask(STAT, request, USAGE_TIMEOUT_S)).record
            except OSError:
                continue  # its last name has just gone
            found[linked[fid]].add_entry(*metadentry.mode_size_mtime(record), now_ns)

    async with trio.open_nursery() as nursery:
        for index, fids in by_owner.items():
            nursery.start_soon(look, index, fids)
    if not any(tally.entries for tally in found.values()):
        raise GkfsError(f"{paths.printable(top)}: no such file or directory", ExitStatus.FAILURE)
    return _cumulated(top, found)


def _cumulated(top: bytes, own: dict[bytes, Tally]) -> dict[bytes, Tally]:
    """Each directory with all that is below it, in the order of du(1): what is below comes first."""
    result = {path: Tally() for path in own} | {top: Tally()}
    for path, tally in own.items():
        while True:
            if path in result:
                result[path].add(tally)
            if path == top:
                break
            path = paths.split(path)[0]
    return {path: result[path] for path in sorted(result, key=_order)}


def _order(path: bytes) -> list[tuple[bytes, int]]:
    names = path.strip(b"/").split(b"/") if path != paths.ROOT else []
    return [(name, 0) for name in names] + [(b"\xff" * 256, 1)]
