"""`gkfs unpack`: what `gkfs pack` wrote becomes files again, on any number of nodes; or is checked as it lies."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from gkfs import manifest
from gkfs.commands import hostfiles, subtrees, terminal
from gkfs.commands.crew import Crew, Task, Work, places_for
from gkfs.commands.options import AbsolutePath, verb
from gkfs.commands.progress import Meter
from gkfs.commands.signals import Signals
from gkfs.commands.staging import movers_by_default
from gkfs.errors import ExitStatus, GkfsError
from gkfs.gang_wire import Message
from gkfs.manifest import Container, Manifest

if TYPE_CHECKING:
    from gkfs.container import Segment

_EPILOG = """\b
Examples:
  gkfs unpack /scratch/state            into the job's file system, which must be empty
  gkfs unpack -H hosts /scratch/state /results
  gkfs unpack --verify /scratch/state   compare all checksums, no file system needed
Exit status 14: the pack is damaged, or not complete.
"""
_DAMAGES_SHOWN: Final = 20


@verb("unpack", _EPILOG, force={"help": "Replace what is there already by what the pack holds."})
@click.argument("sourcedir", type=AbsolutePath())
@click.argument("subtree", required=False)
def unpack(
    sourcedir: Path,
    subtree: str | None,
    hostfile: Path | None,
    launcher: str,
    hosts: str | None,
    movers: int | None,
    force: bool,
    verify: bool,
    json: bool,
) -> None:
    """Unpack the pack in the folder SOURCEDIR into the file system, or into SUBTREE of it."""
    found = manifest.read(sourcedir)
    per_host = movers or movers_by_default()
    with Signals() as signals:
        if verify:
            work = _verify(sourcedir, found, Crew(places_for(None, launcher, hosts), per_host, signals))
        else:
            chosen = subtrees.locate(subtree or "/", hostfile)
            tls = hostfiles.read(chosen.hostfile).features.tls
            crew = Crew(places_for(chosen.hostfile, launcher, hosts), per_host, signals, tls=tls)
            order = {
                "do": "unpack",
                "hostfile": str(chosen.hostfile),
                "subtree": chosen.path,
                "folder": str(sourcedir),
                "replace": force,
            }
            work = _unpack(sourcedir, found, crew, order)
    if json:
        terminal.print_json({"pack": found.pack, **work.document()})
    else:
        terminal.say(work.summary("verified" if verify else "unpacked"))


def _unpack(folder: Path, found: Manifest, crew: Crew, order: Task) -> Work:
    tree = list(_segments(folder, [found.tree], of="directories"))
    data = list(_segments(folder, found.data, of="files"))
    whole = found.totals
    work = Work(whole["files"], whole["bytes"])
    with Meter("unpack") as meter, crew:
        work.show = meter.show

        def take(_rank: int, message: Message) -> None:
            if message["is"] == "progress":
                work.add(message["files"], message["bytes"])

        crew.on_turn = work.turn
        crew.broadcast(order)
        crew.send(0, {"do": "look"})
        while "looked" not in [message["is"] for _, message in crew.take()]:
            pass
        # what is in a directory must find it; its parent learns of it when all are there
        crew.share_out(deque(tree), take)
        for what in ("settle", "touch"):
            crew.broadcast({"do": what})
            crew.gather("settled", take)
        for tasks in (data, [task | {"of": "links"} for task in tree]):
            crew.share_out(deque(tasks), take)
            crew.broadcast({"do": "settle"})
            crew.gather("settled", take)
    return work


def _verify(folder: Path, found: Manifest, crew: Crew) -> Work:
    damages: list[str] = []
    tasks = []
    for container in found.containers:
        try:
            tasks += list(_segments(folder, [container], of="all"))
        except GkfsError as error:
            damages.append(str(error).removeprefix(f"{folder}: "))
    whole = sum(container.size for container in found.containers)
    work = Work(sum(container.entries for container in found.containers), whole)
    with Meter("verify") as meter, crew:
        work.show = meter.show

        def take(_rank: int, message: Message) -> None:
            damages.extend(message["damaged"])
            work.add(message["entries"], message["bytes"])

        crew.on_turn = work.turn
        crew.broadcast({"do": "verify", "folder": str(folder)})
        crew.share_out(deque(tasks), take)
    if damages:
        for damage in damages[:_DAMAGES_SHOWN]:
            terminal.warn(f"{folder}: {damage}")
        more = len(damages) - _DAMAGES_SHOWN
        raise GkfsError(
            f"{folder}: damaged in {len(damages)} places{f', {more} of them not shown' if more > 0 else ''}",
            ExitStatus.PACK,
        )
    return work


def _segments(folder: Path, containers: list[Container], of: str) -> Iterator[Task]:
    """The segments of all *containers*, in turns. Raises GkfsError (PACK) when one is not as it was written."""
    tables = [(container.name, deque(_table(folder, container))) for container in containers]
    while tables:
        for name, segments in tables:
            if segments:
                yield {"do": "segment", "name": name, "segment": tuple(segments.popleft()), "of": of}
        tables = [(name, segments) for name, segments in tables if segments]


def _table(folder: Path, container: Container) -> "list[Segment]":
    from gkfs.container import Damaged, decode_table  # imports msgpack

    name = f"{container.name}.tar"
    try:
        size = (folder / name).stat().st_size
        if size != container.size:
            raise Damaged(f"{name}: {size} bytes, should be {container.size}")
        name = f"{container.name}.index"
        end = min(container.index_bytes, (folder / name).stat().st_size)  # memory is taken for what is there
        with (folder / name).open("rb") as file:
            file.seek(container.table_offset)
            table = file.read(max(0, end - container.table_offset))
        segments = decode_table(table, bytes.fromhex(container.digest))
        for segment in segments:
            if segment.index_offset + segment.index_bytes > container.table_offset or segment.end > container.size:
                raise Damaged(f"{name}: a segment at {segment.first} is not within it")
        return segments
    except Damaged as error:
        what = str(error)
        where = "" if what.startswith(name) else f"{name}: "
        raise GkfsError(f"{folder}: {where}{what}", ExitStatus.PACK) from None
    except OSError as error:
        raise GkfsError(f"{folder}: {name}: {error.strerror}", ExitStatus.PACK) from None
    except ValueError:
        raise GkfsError(f"{folder}: {name}: its table is garbled", ExitStatus.PACK) from None
