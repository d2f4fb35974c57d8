"""What a mover does for `gkfs pack`, `gkfs unpack` and the check of a pack, order by order.

pack        {"do": "scan", "shares"} -> found..., {"is": "scanned"}
            {"do": "linked", "files"} or {"do": "part", ...} -> {"is": "done"}
            {"do": "finish"} -> {"is": "finished"}
unpack      {"do": "look"} -> {"is": "looked"}
            {"do": "segment", ...} -> {"is": "done"}, when it has been begun
            {"do": "settle"}, {"do": "touch"} -> {"is": "settled"}, when all of it has been done
verify      {"do": "segment", ...} -> {"is": "done", "damaged"}
"""

import os
import stat
import time
from pathlib import Path
from typing import Any

from gkfs import container, metadentry, paths
from gkfs.buffers import keep_large_buffers
from gkfs.client import bulk as bulk_client
from gkfs.client.bulk import Bulk
from gkfs.client.orders import Orders
from gkfs.client.packing import Packer, Share
from gkfs.client.scan import Attributes
from gkfs.client.unpacking import Unpacker
from gkfs.container import Damaged, Segment
from gkfs.errors import GkfsError
from gkfs.gang import Member
from gkfs.gang_wire import Message
from gkfs.limits import PACK_PIECE_BYTES

_DIRECTORY_MODE = stat.S_IFDIR | 0o755


def work(member: Member, order: Message) -> None:
    """Do the work that the first order names. Raises GkfsError, GangEnded."""
    keep_large_buffers()
    arguments = {key: value for key, value in order.items() if key != "do"}
    try:
        match order["do"]:
            case "pack":
                pack(member, **arguments)
            case "unpack":
                unpack(member, **arguments)
            case "verify":
                verify(member, **arguments)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise GkfsError(f"{where}{error.strerror or error}") from None


def pack(member: Member, hostfile: str, subtree: bytes, folder: str, name: str, split_bytes: int) -> None:
    """Serve a `gkfs pack` to its end. Raises GkfsError, OSError, GangEnded."""

    async def work(bulk: Bulk) -> None:
        orders = Orders(bulk.pump, member)
        packer = Packer(bulk, subtree, Path(folder), name, split_bytes, member.send)
        try:
            while (order := await orders.next())["do"] != "end":
                await _pack_one(packer, member, order)
        finally:
            orders.close()

    bulk_client.run(Path(hostfile), work)


async def _pack_one(packer: Packer, member: Member, order: dict[str, Any]) -> None:
    match order["do"]:
        case "scan":
            for share in order["shares"]:
                await packer.scan(Share(*share))
            await packer.settle()
            member.send({"is": "scanned"})
        case "linked":
            records = []
            for path, fid in order["files"]:
                records.append(await packer.linked(path, fid))
            member.send({"is": "done", "linked": [path for path, _ in order["files"]], "records": records})
        case "part":
            await packer.part(order["path"], order["record"], order["number"], order["count"])
            member.send({"is": "done"})
        case "finish":
            member.send({"is": "finished", "container": tuple(await packer.finish())})


def unpack(member: Member, hostfile: str, subtree: bytes, folder: str, replace: bool) -> None:
    """Serve a `gkfs unpack` to its end. Raises GkfsError, OSError, GangEnded."""

    async def work(bulk: Bulk) -> None:
        orders = Orders(bulk.pump, member)
        unpacker = Unpacker(bulk, subtree, Path(folder), replace, member.send)
        try:
            while (order := await orders.next())["do"] != "end":
                match order["do"]:
                    case "look":
                        await _prepare(bulk, subtree, replace)
                        member.send({"is": "looked"})
                    case "segment":
                        await unpacker.segment(order["name"], Segment(*order["segment"]), of=order["of"])
                        member.send({"is": "done"})
                    case "settle":
                        await unpacker.settle()
                        member.send({"is": "settled"})
                    case "touch":
                        await unpacker.touch()
                        member.send({"is": "settled"})
        finally:
            unpacker.close()
            orders.close()

    bulk_client.run(Path(hostfile), work)


async def _prepare(bulk: Bulk, subtree: bytes, replace: bool) -> None:
    """Make what is above *subtree*, and see that nothing is in it. Raises GkfsError."""
    above, names = [], subtree.strip(b"/").split(b"/")[:-1]
    for depth in range(1, len(names) + 1):
        above.append(b"/" + b"/".join(names[:depth]))
    try:
        now_ns = time.time_ns()
        for path in above:
            # no parent's fid: the directory above has just been seen or made
            what = Attributes(_DIRECTORY_MODE, os.geteuid(), os.getegid(), 0, 0, now_ns, now_ns)
            put = await bulk.put(path, 0, what)  # its parent learns of it below
            if put.existing and not metadentry.is_directory_record(put.existing):
                raise GkfsError(f"{paths.printable(path)} is no directory")
        await bulk.touch_all()
        if replace:
            return
        scans = [bulk.scan(daemon, subtree) for daemon in range(bulk.hosts.daemon_count)]
        for scan in scans:
            for path, _ in await scan.page():
                raise GkfsError(
                    f"{paths.printable(subtree)} is not empty, it holds {paths.printable(path)}; "
                    f"--force replaces what the pack holds, too"
                )
    except OSError as error:
        raise GkfsError(f"{paths.printable(subtree)}: {error.strerror or error}") from None


def verify(member: Member, folder: str) -> None:
    """Serve the check of a pack to its end. Raises GangEnded."""
    while True:
        order = member.receive(timeout_s=3600.0)
        if order is None or order["do"] == "end":
            return
        segment = Segment(*order["segment"])
        damaged = verify_segment(Path(folder), order["name"], segment)
        size = segment.end - segment.first
        member.send({"is": "done", "damaged": damaged, "entries": segment.entries, "bytes": size})


def verify_segment(folder: Path, name: str, segment: Segment) -> list[str]:
    """What is damaged in a segment of the container *name*, in a line each."""
    try:
        with (folder / f"{name}.index").open("rb") as index, (folder / f"{name}.tar").open("rb") as data:
            block = os.pread(index.fileno(), segment.index_bytes, segment.index_offset)
            entries = container.decode_block(block, segment)
            found = []
            for entry in entries:
                try:
                    container.check_member(entry, lambda at, count: os.pread(data.fileno(), count, at))
                    for offset, length in container.holes(entry):
                        _check_hole(data.fileno(), entry, offset, length)
                except Damaged as error:
                    found.append(f"{name}.tar: {error}")
            return found
    except Damaged as error:
        return [f"{name}.index: bytes {segment.index_offset} and on: {error}"]
    except OSError as error:
        return [f"{error.filename or name}: {error.strerror}"]


def _check_hole(fd: int, entry: container.Entry, offset: int, length: int) -> None:
    """Raise Damaged unless there are only zeros."""
    end = offset + length
    while offset < end:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:  # no data from here to the end of the file
            return
        if offset >= end:
            return
        data = os.pread(fd, min(end - offset, PACK_PIECE_BYTES), offset)
        if data.count(0) != len(data):
            raise container.damaged(entry, "a hole in it holds data")
        offset += len(data) or end
