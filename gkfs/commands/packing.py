"""The leader's part of `gkfs pack`: who scans what, what is left to be shared out, the container of the tree."""

import contextlib
import datetime
import math
import os
from collections import deque
from typing import Any, Final

from gkfs import __version__, manifest, metadentry, paths
from gkfs.commands import usage
from gkfs.commands.crew import Crew, Task, Work
from gkfs.commands.packfolder import PackFolder
from gkfs.commands.subtrees import Subtree
from gkfs.container import ContainerWriter
from gkfs.errors import ExitStatus, GkfsError
from gkfs.gang_wire import Message
from gkfs.hostfile import Hostfile
from gkfs.limits import MANIFEST_SUBTREES_MAX, PACK_LINKED_BATCH
from gkfs.manifest import Container, Manifest, private
from gkfs.messages import Buffer

_CUTS_MAX: Final = 8  # each is a scan of its own


class Packing:
    """What is known of a pack that grows in *folder*."""

    def __init__(self, chosen: Subtree, hosts: Hostfile, folder: PackFolder, split_bytes: int) -> None:
        self._chosen = chosen
        self._hosts = hosts
        self._folder = folder
        self._split_bytes = split_bytes
        self._begun = datetime.datetime.now(datetime.UTC)
        counted = usage.count(hosts, [chosen.path], 1)[0]
        self.whole = counted[chosen.path]
        if not self.whole.directories:
            raise GkfsError(f"{paths.printable(chosen.path)} is no directory", ExitStatus.USAGE)
        self._tops = counted
        self._directories: list[tuple[bytes, bytes]] = []
        self._links: dict[int, list[bytes]] = {}  # names by fid
        self._link_records: dict[bytes, bytes] = {}  # by first name
        self._tasks: deque[Task] = deque()  # for movers that are done with their share
        self._parts: dict[str, int] = {}
        self._containers: list[Container] = []
        self.work = Work(self.whole.files, self.whole.size_bytes)

    def run(self, crew: Crew) -> None:
        """Have *crew* write all containers but that of the tree, then write that."""
        crew.on_turn = self._turn
        scanned = shares(crew.hosts, [address.host for _, address in sorted(self._hosts.daemons.items())])
        for rank in range(crew.size):
            order = {
                "do": "pack",
                "hostfile": str(self._chosen.hostfile),
                "subtree": self._chosen.path,
                "folder": str(self._folder.folder),
                "name": manifest.data_name(self._folder.pack, rank),
                "split_bytes": self._split_bytes,
            }
            crew.send(rank, order)
            crew.send(rank, {"do": "scan", "shares": scanned[rank]})
        crew.gather("scanned", self._take)
        self._share_out_linked()
        crew.share_out(self._tasks, self._take)
        crew.broadcast({"do": "finish"})
        finished = crew.gather("finished", self._take)
        for rank in range(crew.size):
            size, entries, index_bytes, table_offset, digest = finished[rank]["container"]
            name = manifest.data_name(self._folder.pack, rank)
            self._containers.append(Container(name, size, entries, index_bytes, table_offset, digest.hex()))
        self._write_tree()

    def manifest(self, options: dict[str, Any]) -> Manifest:
        """What makes it a pack."""
        return Manifest(
            self._folder.pack,
            __version__,
            self._begun.isoformat(timespec="seconds"),
            round(self.work.seconds, 3),
            self._hosts.fsid,
            os.fsdecode(self._chosen.path),
            options,
            self._containers,
            self._parts,
            self.whole.document(),
            self._top_documents(),
        )

    def _turn(self) -> None:
        self._folder.renew()
        self.work.turn()

    def _take(self, _rank: int, message: Message) -> None:
        match message["is"]:
            case "progress":
                self.work.add(message["files"], message["bytes"])
            case "found":
                self._directories += [(path, record) for path, record in message["directories"]]
                for path, fid in message["linked"]:
                    self._links.setdefault(fid, []).append(path)
                for path, record in message["large"]:
                    self._split(path, record)
            case "done" if "linked" in message:
                for path, record in zip(message["linked"], message["records"], strict=True):
                    self._link_records[path] = record

    def _split(self, path: bytes, record: bytes) -> None:
        count = -(-metadentry.decode(record).size // self._split_bytes)
        self._parts[os.fsdecode(path)] = count
        for number in range(1, count + 1):
            self._tasks.append({"do": "part", "path": path, "record": record, "number": number, "count": count})

    def _share_out_linked(self) -> None:
        """Files with several names are packed once, under the first."""
        first = [(min(names), fid) for fid, names in self._links.items()]
        for start in range(0, len(first), PACK_LINKED_BATCH):
            self._tasks.append({"do": "linked", "files": first[start : start + PACK_LINKED_BATCH]})

    def _write_tree(self) -> None:
        """Further names first: they change the times of directories, which come then and are set when read."""
        name = manifest.tree_name(self._folder.pack)
        try:
            with contextlib.ExitStack() as files:
                data = files.enter_context(open(self._folder.folder / f"{name}.tar", "xb", opener=private))
                index = files.enter_context(open(self._folder.folder / f"{name}.index", "xb", opener=private))

                def put(offset: int, what: Buffer) -> None:
                    data.seek(offset)
                    data.write(what)

                writer = ContainerWriter(put, index.write)
                for names in self._links.values():
                    target, *further = sorted(names)
                    for path in further:
                        writer.link(path, target, metadentry.decode(self._link_records[target]))
                    self._folder.renew()
                # by components: a directory is followed by all that is below it
                for path, record in sorted(self._directories, key=lambda found: found[0].split(b"/")):
                    writer.add(path, record)
                    self._folder.renew()
                self._containers.append(Container.of(name, writer.finish()))
                for file in (data, index):
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise GkfsError(f"{self._folder.folder / name}.tar: {error.strerror}") from None

    def _top_documents(self) -> dict[str, Any]:
        """By the directory at the top; of very many only the largest."""
        top = self._chosen.path
        tallies = {path: tally for path, tally in self._tops.items() if path != top}
        largest = sorted(tallies, key=lambda path: tallies[path].size_bytes, reverse=True)[:MANIFEST_SUBTREES_MAX]
        return {os.fsdecode(paths.split(path)[1]): tallies[path].document() for path in sorted(largest)}


def shares(movers: list[str], daemons: list[str]) -> list[list[tuple[int, int, int]]]:
    """(daemon, own, of) of what each mover scans: all have about as many records, rather of their own host.

    *movers* and *daemons* are the hosts they are on. A daemon's records are cut in as many parts as it takes.

    >>> shares(["a", "b"], ["b", "a"])
    [[(1, 0, 1)], [(0, 0, 1)]]
    >>> shares(["a", "a"], ["a"])
    [[(0, 0, 2)], [(0, 1, 2)]]
    """
    even = len(movers) // math.gcd(len(movers), len(daemons))
    cuts = max(-(-len(movers) // len(daemons)), min(even, _CUTS_MAX))
    least = cuts * len(daemons) // len(movers)
    result: list[list[tuple[int, int, int]]] = [[] for _ in movers]
    left = []
    for unit in range(cuts * len(daemons)):
        own, daemon = divmod(unit, len(daemons))
        local = [rank for rank, host in enumerate(movers) if host == daemons[daemon] and len(result[rank]) < least]
        if local:
            result[min(local, key=lambda rank: len(result[rank]))].append((daemon, own, cuts))
        else:
            left.append((daemon, own, cuts))
    for share in left:
        min(result, key=len).append(share)
    return result
