"""What other users of the machine get at: neither socket nor folder."""

import errno
import logging
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest
import trio
import trio.testing

from gkfs import transport
from tests.daemon.raw import call, daemon, serves
from tests.users import OTHER_USER, as_other_user


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes another user")
def test_another_user_does_not_get_to_the_unix_socket_nor_past_it(caplog: pytest.LogCaptureFixture) -> None:
    async def main(folder: Path) -> None:
        folder.chmod(0o755)  # unlike those of pytest
        async with daemon(folder) as address:
            path = transport.unix_path(address.unix)
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

            def connect() -> int:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(2)
                    try:
                        connection.connect(str(path))
                        connection.sendall(call().greeting)
                        return len(connection.recv(1000))
                    except (ConnectionResetError, BrokenPipeError):
                        return 0
                    except OSError as error:
                        return error.errno or 254

            assert await trio.to_thread.run_sync(as_other_user, connect) == errno.EACCES
            for careless in (path.parent, path):  # the folders are the first wall, who calls is the second
                careless.chmod(0o777)
            assert await trio.to_thread.run_sync(as_other_user, connect) == 0
            await serves(address)

    with caplog.at_level(logging.WARNING), tempfile.TemporaryDirectory() as folder:
        trio.run(main, Path(folder))
    assert any(f"of uid {OTHER_USER}: is another user" in message for message in caplog.messages)


def test_a_folder_that_others_may_enter_is_closed_to_them(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(0o777)

    async def main() -> None:
        async with daemon(tmp_path):
            assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o700

    trio.run(main)
