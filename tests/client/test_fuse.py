"""The boundary to the kernel."""

import errno
import inspect

import pyfuse3
import pytest

from gkfs.client.fuse import GkfsOperations, handler


def handlers() -> list[str]:
    return [name for name, method in vars(GkfsOperations).items() if inspect.iscoroutinefunction(method)]


@pytest.mark.parametrize("name", [name for name in handlers() if not name.startswith("_")])
def test_every_handler_is_total(name: str) -> None:
    assert hasattr(getattr(GkfsOperations, name), "__wrapped__")


def test_every_operation_of_this_release_is_there() -> None:
    expected = [
        "lookup",
        "forget",
        "getattr",
        "setattr",
        "create",
        "mknod",
        "open",
        "read",
        "write",
        "flush",
        "fsync",
        "release",
        "unlink",
        "mkdir",
        "rmdir",
        "opendir",
        "readdir",
        "releasedir",
        "fsyncdir",
        "symlink",
        "readlink",
        "rename",
        "statfs",
        "access",
    ]
    assert set(expected) <= set(handlers())


def run(error: Exception) -> pyfuse3.FUSEError:
    async def lookup(self: GkfsOperations) -> None:
        raise error

    with pytest.raises(pyfuse3.FUSEError) as caught:
        handler(lookup)(GkfsOperations.__new__(GkfsOperations)).send(None)
    return caught.value


def test_os_errors_become_their_errno() -> None:
    assert run(FileNotFoundError(errno.ENOENT, "x")).errno == errno.ENOENT


def test_errors_without_an_errno_are_eio() -> None:
    assert run(OSError("x")).errno == errno.EIO


def test_bugs_are_eio_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert run(ZeroDivisionError("x")).errno == errno.EIO
    assert "ZeroDivisionError" in caplog.text
