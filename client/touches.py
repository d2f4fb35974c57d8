"""Times and link counts of directories, after entries were created or removed in them.

The directory's record may be on another daemon than the entry's. A message for each create would double the cost,
so changes of one directory gather here and go out together: before the record is next asked for through this
mount, and to all others within `DIRECTORY_TOUCH_DELAY_S`.
"""

import errno
import logging
import time

import trio

from gkfs.channel import Call
from gkfs.client.context import Context
from gkfs.client.inodes import Inode
from gkfs.limits import DIRECTORY_TOUCH_DELAY_S
from gkfs.messages import Empty, TouchRequest
from gkfs.operations import TOUCH
from gkfs.paths import printable

log = logging.getLogger(__name__)


class Touches:
    """Changes of directories that their owners do not know of yet, by path."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waiting: dict[bytes, tuple[Inode, int, int]] = {}  # inode, mtime_ns, subdirectories
        self._work = trio.Event()

    def note(self, directory: Inode, subdirectories: int = 0) -> None:
        """An entry of *directory* came or went; *subdirectories*: by how much its link count changes."""
        path = self._context.inodes.path(directory)
        _, _, before = self._waiting.get(path, (directory, 0, 0))
        self._waiting[path] = (directory, time.time_ns(), before + subdirectories)
        directory.stale()
        self._work.set()

    def send(self, path: bytes) -> None:
        """Queue what is noted for *path*, so that a request queued next for it finds it done."""
        if path in self._waiting:
            self._submit(path)

    async def send_all(self) -> None:
        """Send everything and wait until it is done: before directories change their paths, and at the end."""
        for path, call in [(path, self._submit(path)) for path in list(self._waiting)]:
            try:
                await call
            except OSError as error:
                _log_failure(path, error)

    async def run(self) -> None:
        """Send what is noted soon after, until cancelled."""
        while True:
            await self._work.wait()
            await trio.sleep(DIRECTORY_TOUCH_DELAY_S)
            self._work = trio.Event()
            for path in list(self._waiting):
                self._submit(path)

    def _submit(self, path: bytes) -> Call[Empty]:
        directory, mtime_ns, subdirectories = self._waiting.pop(path)
        request = TouchRequest(path, directory.fid, mtime_ns, subdirectories)
        call = self._context.call_owner(path, TOUCH, request)
        if call.done:  # of a daemon in this process
            _log_outcome(path, call)
        else:
            call.on_done = lambda: _log_outcome(path, call)
        return call


def _log_outcome(path: bytes, call: Call[Empty]) -> None:
    if call.error is not None:
        _log_failure(path, call.error)


def _log_failure(path: bytes, error: OSError) -> None:
    if error.errno not in (errno.ENOENT, errno.ESTALE):  # removed meanwhile: nothing left to touch
        log.warning("times of directory %s: %s", printable(path), error)
