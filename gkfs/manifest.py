"""The manifest of a pack: the file that makes it one. Pure, but for reading and writing it.

It is JSON, written last and put in its place at once: where there is none, there is no pack. It lists the
containers with their sizes and digests, says what is in them, and holds a digest of itself.
"""

import hashlib
import json
import os
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gkfs.durable import write_json
from gkfs.errors import ExitStatus, GkfsError
from gkfs.limits import MANIFEST_MAX_BYTES

if TYPE_CHECKING:
    from gkfs.container import Finished

NAME: Final = "gkfs-pack.json"
FORMAT: Final = "gkfs pack 1"
_OWN_FILE = re.compile(r"(?:data-([0-9a-f]{8})-\d{4,}|tree-([0-9a-f]{8}))\.(?:tar|index)")


class Container(NamedTuple):
    """One container; its files are NAME.tar and NAME.index. Sizes in bytes."""

    name: str
    size: int
    entries: int
    index_bytes: int
    table_offset: int  # of the table of segments, in the index
    digest: str  # of that table, hexadecimal

    @classmethod
    def of(cls, name: str, finished: "Finished") -> "Container":
        """As its writer has finished it."""
        return cls(name, *finished[:-1], finished.digest.hex())


class Manifest(NamedTuple):
    """All of it. *totals* and *subtrees* are tallies as documents, see `gkfs.tally`."""

    pack: str  # 8 hexadecimal digits in the names of its files
    software: str
    begun: str  # UTC
    seconds: float
    fsid: str
    subtree: str
    options: dict[str, Any]
    containers: list[Container]  # the last one holds the tree: directories, and further names of files
    parts: dict[str, int]  # files that are in parts, and in how many
    totals: dict[str, Any]
    subtrees: dict[str, Any]  # of the directories at the top, "." for what is in none

    @property
    def tree(self) -> Container:
        """The container of the tree."""
        return self.containers[-1]

    @property
    def data(self) -> list[Container]:
        """The others."""
        return self.containers[:-1]


def new_pack() -> str:
    """What to call a pack."""
    return secrets.token_hex(4)


def data_name(pack: str, number: int) -> str:
    """The container of mover *number*."""
    return f"data-{pack}-{number:04d}"


def tree_name(pack: str) -> str:
    """The container of the tree; it sorts behind those of the data, and is to be extracted last."""
    return f"tree-{pack}"


def pack_of(name: str) -> str | None:
    """The pack that a file of this name in its folder belongs to, None if to none."""
    found = _OWN_FILE.fullmatch(name)
    return found and (found[1] or found[2])


def private(path: str, flags: int) -> int:
    """For `open`: what holds the data of all users' files is its owner's alone."""
    return os.open(path, flags, 0o600)


def write(folder: Path, manifest: Manifest) -> None:
    """Make the pack in *folder* a pack. Raises OSError."""
    document = {"format": FORMAT, **manifest._asdict()}
    document["containers"] = [container._asdict() for container in manifest.containers]
    document["digest"] = _digest(document)
    write_json(folder / NAME, folder / f"{NAME}.{manifest.pack}", document, mode="x", opener=private)


def read(folder: Path) -> Manifest:
    """The manifest of the pack in *folder*. Raises GkfsError (PACK) when there is none, or no whole one."""
    try:
        with open(folder / NAME, "rb") as file:
            data = file.read(MANIFEST_MAX_BYTES + 1)
        if len(data) > MANIFEST_MAX_BYTES:
            raise _error(folder, f"its {NAME} is longer than {MANIFEST_MAX_BYTES} bytes")
        document = json.loads(data)
        if document.get("format") != FORMAT:
            raise _error(folder, f"its {NAME} is of format {document.get('format')!r}, not {FORMAT!r}")
        claimed = document.pop("digest")
        if claimed != _digest(document):
            raise _error(folder, f"its {NAME} is damaged: its checksum is wrong")
        del document["format"]
        containers = [Container(**container) for container in document.pop("containers")]
        return _checked(Manifest(containers=containers, **document))
    except FileNotFoundError:
        raise _error(folder, _why_none(folder)) from None
    except OSError as error:
        raise _error(folder, error.strerror or str(error)) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _error(folder, f"its {NAME} is damaged: {error}") from None


def _checked(found: Manifest) -> Manifest:
    """*found*. Raises ValueError: a right digest says that it is as somebody wrote it, not who."""
    if not found.containers or not isinstance(found.parts, dict):
        raise ValueError("no containers")
    for container in found.containers:
        if pack_of(f"{container.name}.tar") != found.pack:
            raise ValueError(f"a container {container.name!r:.80}")
        numbers = container[1:5]
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError(f"container {container.name}: {numbers!r:.80}")
        bytes.fromhex(container.digest)
    return found


def _why_none(folder: Path) -> str:
    try:
        names = os.listdir(folder)
    except OSError as error:
        return error.strerror or str(error)
    if any(pack_of(name) for name in names):
        return f"the pack was not completed: there is no {NAME}"
    return f"there is no pack: no {NAME}"


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode("ascii")).hexdigest()


def _error(folder: Path, reason: str) -> GkfsError:
    return GkfsError(f"{folder}: {reason}", ExitStatus.PACK)
