"""Compiles the modules that requests pass through; all else about the build is in pyproject.toml.

They are compiled for a wheel, which is what `pip install .` makes. An editable install has them as they are, and
so has a wheel with GKFS_COMPILE=0 (docs/decisions/0016-compiled.md).
"""

import os
import sys
import tempfile
from typing import Final

from setuptools import setup

_CORE: Final = "channel chunks distributor metadentry paths spin wire"
# Not `fuse` and `beside`: their classes have bases in packages that are not installed where a wheel is built, and
# which the compiler would have to know.
_CLIENT: Final = (
    "attributes context data handles holds inodes listing name_leases namespace pool pump reading touches writing"
)
_DAEMON: Final = (
    "attributes chunk_files connection dispatch guards handlers inline_data kept keys leases local name_leases "
    "namespace open_chunks opens outbox parents records rows session shares store"
)


def _compiled(folder: str) -> list[object]:
    """Extensions whose C sources are in *folder*."""
    from mypyc.build import mypycify

    modules = [
        *(f"gkfs/{name}.py" for name in _CORE.split()),
        *(f"gkfs/client/{name}.py" for name in _CLIENT.split()),
        *(f"gkfs/daemon/{name}.py" for name in _DAEMON.split()),
    ]
    # Without the project's strict checks, which have to know what is imported; the same wherever it is compiled.
    options = ["--config-file=", "--no-site-packages", "--ignore-missing-imports"]
    return mypycify([*options, *modules], opt_level="2", debug_level="0", multi_file=True, target_dir=folder)


if "bdist_wheel" in sys.argv and os.environ.get("GKFS_COMPILE") != "0":
    # Not in build/: what an earlier build has left there would be packed, too, and does not fit what is new.
    with tempfile.TemporaryDirectory(prefix="gkfs-build-") as folder:
        setup(ext_modules=_compiled(folder), options={"build": {"build_base": folder}})
else:
    setup()
