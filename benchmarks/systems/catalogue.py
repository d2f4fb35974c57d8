"""All systems of the matrix, in the order of the report."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.systems.base import System
from benchmarks.systems.disk import Disk
from benchmarks.systems.glusterfs import GlusterFS
from benchmarks.systems.moosefs import MooseFS
from benchmarks.systems.ours import VARIANTS, Ours
from benchmarks.systems.passthrough import Passthrough

PASSTHROUGH: Final = "passthrough"
RIVALS: Final = ("glusterfs-1", "moosefs")  # what ours is compared with: one server each

CATALOGUE: Final[dict[str, Callable[[str, Path], System]]] = {
    "disk": Disk,
    PASSTHROUGH: Passthrough,
    "glusterfs-1": partial(GlusterFS, bricks=1),
    "glusterfs-2": partial(GlusterFS, bricks=2),
    "moosefs": MooseFS,
    **dict.fromkeys(VARIANTS, Ours),
}
