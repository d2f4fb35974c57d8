"""Real mounts in TLS, with somebody on the network between everybody and each daemon.

That such a file system does what any does is tested where it is named TLS, or all with GKFS_TEST_TLS=1.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from gkfs import hostfile
from tests.mount.calls import noise
from tests.mount.conftest import close_file_system, open_file_system
from tests.mount.file_system import FileSystem
from tests.relay import Relay, as_it_is

Start = Callable[..., FileSystem]
_CHANGED_EVERY_BYTES: Final = 1_000_000  # of a connection, each way; it ends then, and the next one begins anew
_NAME: Final = "secret-name"
_DATA: Final = b"the secret contents of a file, not to be read on the way"


@pytest.fixture
def over_tcp(tmp_path: Path) -> Iterator[Start]:
    """Start a file system all of whose messages go over TCP: `over_tcp(tls)`; nothing is mounted yet."""
    opened: list[FileSystem] = []

    def start(*, tls: bool) -> FileSystem:
        opened.append(open_file_system(tmp_path / f"gkfs-{len(opened)}", 2, 0, embedded=False, tls=tls))
        for socket in opened[-1].rootdir.glob("*/socket"):
            socket.unlink()
        return opened[-1]

    yield start
    problems = [problem for file_system in opened for problem in close_file_system(file_system)]
    if problems:
        pytest.fail("\n".join(problems))


@contextlib.contextmanager
def relayed(file_system: FileSystem) -> Iterator[list[Relay]]:
    """All that clients and daemons say to a daemon passes a relay: the last line for it in the hostfile holds."""
    daemons = sorted(hostfile.read(file_system.hostfile).daemons.items())
    with contextlib.ExitStack() as stack:
        relays = [stack.enter_context(Relay(address)) for _, address in daemons]
        _append(file_system, [hostfile.format_daemon(relay.address) for relay in relays])
        try:
            yield relays
        finally:
            _append(file_system, [hostfile.format_daemon(address) for _, address in daemons])


def _append(file_system: FileSystem, lines: Sequence[str]) -> None:
    with file_system.hostfile.open("a") as file:
        file.writelines(lines)


def _use_everything(file_system: FileSystem, folder: Path) -> None:
    """Files, names that move between the daemons, and the verbs."""
    mountdir = file_system.mount()
    for number in range(20):
        (mountdir / f"{_NAME}-{number}").write_bytes(_DATA * (1 if number % 2 else 40_000))
        (mountdir / f"{_NAME}-{number}").rename(mountdir / f"{_NAME}-moved-{number}")
        assert (mountdir / f"{_NAME}-moved-{number}").read_bytes().startswith(_DATA)
    assert len(os.listdir(mountdir)) == 20
    file_system.gkfs("status", "-H", file_system.hostfile)
    file_system.gkfs("fsck", "-H", file_system.hostfile)
    file_system.gkfs("du", "-H", file_system.hostfile, "/")
    (folder / _NAME).mkdir()
    (folder / _NAME / "staged").write_bytes(_DATA)
    file_system.gkfs("stage-in", "-H", file_system.hostfile, folder / _NAME, "/")
    assert (mountdir / _NAME / "staged").read_bytes() == _DATA
    file_system.gkfs("stage-out", "-H", file_system.hostfile, f"/{_NAME}/", folder / "out")
    assert (folder / "out" / "staged").read_bytes() == _DATA
    file_system.gkfs("pack", "-H", file_system.hostfile, "--launcher", "local", folder / "pack")
    file_system.umount(mountdir)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_who_listens_hears_names_and_data_only_without_tls(tls: bool, over_tcp: Start, tmp_path: Path) -> None:
    file_system = over_tcp(tls=tls)
    with relayed(file_system) as relays:
        _use_everything(file_system, tmp_path)
        heard = [bytes(relay.heard) for relay in relays]
    for one in heard:
        assert len(one) > 20 * len(_DATA) * 10_000
        assert (_NAME.encode() in one) is not tls
        assert (_DATA in one) is not tls


def test_who_changes_bytes_ends_connections_and_nothing_is_lost_or_done_twice(over_tcp: Start) -> None:
    file_system = over_tcp(tls=True)
    with relayed(file_system) as relays:
        here, there = file_system.mount(), file_system.mount()
        changed = 0

        def change(before: int, piece: bytes) -> bytes:
            nonlocal changed
            if before // _CHANGED_EVERY_BYTES == (before + len(piece)) // _CHANGED_EVERY_BYTES:
                return piece
            changed += 1
            middle = len(piece) // 2
            return piece[:middle] + bytes([piece[middle] ^ 4]) + piece[middle + 1 :]

        for relay in relays:
            relay.to_daemon = relay.to_client = change
        contents = {f"file-{number}": noise(300_000 + number, number) for number in range(20)}
        log = os.open(here / "log", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        for number, (name, data) in enumerate(contents.items()):
            with (here / f"{name}.new").open("xb") as file:
                file.write(data)
            (here / f"{name}.new").rename(here / name)
            os.write(log, b"%d\n" % number)
        os.close(log)
        for name, data in contents.items():
            assert (there / name).read_bytes() == data
        assert (there / "log").read_text().split() == [str(number) for number in range(20)]
        assert sorted(os.listdir(there)) == sorted([*contents, "log"])
        for relay in relays:
            relay.to_daemon = relay.to_client = as_it_is
    print(f"{changed} bytes changed, {sum(relay.connections for relay in relays)} connections")
    assert changed >= 5
    assert sum(relay.connections for relay in relays) > changed // 2
