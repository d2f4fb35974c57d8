"""Nothing that comes over the wire names a file: whatever a request holds, it stays within the daemon's folder.

Every operation of the table is sent with paths, names and numbers that would lead elsewhere, by a caller who has
the key.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import trio

from gkfs import wire
from gkfs.messages import StatRequest
from gkfs.operations import HELLO, SHUTDOWN, STAT, TABLE, Operation
from tests.daemon.raw import Raw, daemon

_VICTIM = b"../" * 12 + b"tmp/gkfs-victim"
_PATHS = (
    _VICTIM,
    b"/" + _VICTIM,
    b"/../victim",
    b"/a/../../victim",
    b"/./x",
    b"//etc/passwd",
    b"",
    b"\0",
    b"/a\0b",
)
_NUMBERS = (0, 1, -1, -(1 << 63), (1 << 31) - 1, 1 << 32, (1 << 63) - 1, (1 << 64) - 1)
_CHUNK_FILE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{16}\.[0-9a-f]{8}")


def _hostile(hint: Any, turn: int) -> Any:
    """A value for a field of this type."""
    if hint is int:
        return _NUMBERS[turn % len(_NUMBERS)]
    if hint is bool:
        return bool(turn % 2)
    if hint is str:
        return "../victim"
    if hint is bytes:
        return _PATHS[turn % len(_PATHS)]
    if hint is list or not isinstance(hint, type):
        inner = (get_args(hint) or (bytes,))[0]
        return [_hostile(inner, turn + more) for more in range(turn % 4)]
    return b""


def _requests(operation: Operation[Any, Any]) -> Iterator[list[Any]]:
    """Encoded requests of one operation."""
    hints = list(get_type_hints(operation.request).values())
    if operation.bulk_request:
        hints[-1] = bytes
    for turn in range(len(_NUMBERS) * len(_PATHS)):
        # Each field goes through its values at a pace of its own.
        values = [_hostile(hint, turn // (1 + place % 3) + place) for place, hint in enumerate(hints)]
        try:
            yield wire.encode_request(operation, turn + 1, operation.request(*values))
        except OverflowError:  # no number of the format
            continue


async def _send_all(raw: Raw, operation: Operation[Any, Any]) -> int:
    """How many were answered; the daemon may close the connection upon what is no request at all."""
    answered = 0
    for request in _requests(operation):
        try:
            await raw.send(request)
            with trio.move_on_after(0.2):  # some wait for what never comes
                await raw.receive()
                answered += 1
        except (EOFError, ConnectionResetError, BrokenPipeError):
            raw.close()
            break
    return answered


def _entries(folder: Path, but: Path) -> dict[str, tuple[int, int, int]]:
    """All files in *folder* with mode, size and time, but for those below *but*."""
    found = {}
    for path in folder.rglob("*"):
        if but not in (path, *path.parents):
            status = path.lstat()
            found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def _chunk_files(chunks: Path) -> set[str]:
    return {str(path.relative_to(chunks)) for path in chunks.rglob("*") if not stat.S_ISDIR(path.lstat().st_mode)}


def test_no_request_reaches_a_file_outside_of_the_daemons_folder(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("untouched")

    async def main() -> set[str]:
        async with daemon(tmp_path) as address:
            before, others = _entries(tmp_path, tmp_path / "d"), set(os.listdir("/tmp"))
            answered, files = 0, set()
            for operation in TABLE.values():
                if operation in (HELLO, SHUTDOWN):
                    continue
                raw = Raw(address)
                await raw.hello(os.urandom(16))
                answered += await _send_all(raw, operation)
                raw.close()
                files |= _chunk_files(tmp_path / "d" / "chunks")
            assert answered > 10 * len(TABLE)
            assert _entries(tmp_path, tmp_path / "d") == before
            assert not any(name.startswith("gkfs-victim") for name in set(os.listdir("/tmp")) - others)
            good = Raw(address)
            await good.hello()
            assert (await good.call(STAT, 1, StatRequest(b"/", 0))).errno == 0
            good.close()
        return files

    files = trio.run(main)
    assert files  # some numbers are those of chunks
    assert [name for name in files if not _CHUNK_FILE.fullmatch(name)] == []
    assert {path.name for path in (tmp_path / "d").iterdir()} == {
        "ballast",
        "chunks",
        "lock",
        "metadata",
        "superblock.json",
    }
