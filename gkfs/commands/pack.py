"""`gkfs pack`: a file system or a subtree of it becomes a few large files in a folder, written by all nodes."""

import os
from pathlib import Path
from typing import Final

import click

from gkfs.commands import hostfiles, subtrees, terminal
from gkfs.commands.crew import Crew, places_for
from gkfs.commands.options import verb
from gkfs.commands.packfolder import PackFolder
from gkfs.commands.progress import Meter
from gkfs.commands.signals import Signals
from gkfs.commands.staging import movers_by_default
from gkfs.errors import ExitStatus, GkfsError
from gkfs.limits import PACK_SPLIT_BYTES

_EPILOG = """\b
Examples:
  gkfs pack /scratch/state              all of the job's file system
  gkfs pack -H hosts /results /scratch/state
  gkfs pack /mnt/job/results /scratch/state --force
  gkfs unpack /scratch/state            in the next job, on any number of nodes
The containers are tar archives: docs/packing.md says how to read them without gkfs.
Nothing should change below SUBTREE meanwhile.
"""
_MIB: Final = 1 << 20


@verb(
    "pack",
    _EPILOG,
    split={"type": click.IntRange(0, 1 << 20), "default": PACK_SPLIT_BYTES // _MIB, "metavar": "MIB"},
    force={"help": "Put the new pack in the place of one that TARGETDIR holds, once it is complete."},
)
@click.argument("places", nargs=-1, required=True, metavar="[SUBTREE] TARGETDIR")
def pack(
    places: tuple[str, ...],
    hostfile: Path | None,
    launcher: str,
    hosts: str | None,
    movers: int | None,
    split: int,
    force: bool,
    json: bool,
) -> None:
    """Pack the file system, or SUBTREE of it, into a few large files in the folder TARGETDIR."""
    if len(places) > 2:
        raise click.UsageError(
            f"{len(places)} arguments, expected [SUBTREE] TARGETDIR", click.get_current_context()
        )
    chosen = subtrees.locate(places[0] if len(places) == 2 else "/", hostfile)
    targetdir = Path(os.path.abspath(places[-1]))
    if subtrees.is_in(targetdir, chosen.hostfile):
        raise GkfsError(f"{targetdir} is in the file system that is to be packed", ExitStatus.USAGE)
    from gkfs.commands.packing import Packing  # imports trio and more

    with Signals() as signals, PackFolder(targetdir, force) as folder:
        daemons = hostfiles.read(chosen.hostfile)
        nodes = places_for(chosen.hostfile, launcher, hosts)
        packing = Packing(chosen, daemons, folder, split * _MIB)
        with Meter("pack") as meter:
            packing.work.show = meter.show
            with Crew(nodes, movers or movers_by_default(), signals, tls=daemons.features.tls) as crew:
                packing.run(crew)
            result = packing.manifest({"split_mib": split})
            folder.complete(result)
    if json:
        terminal.print_json(result._asdict() | {"containers": [c._asdict() for c in result.containers]})
    else:
        terminal.say(f"{packing.work.summary('packed')}; {len(result.containers)} containers in {targetdir}")
