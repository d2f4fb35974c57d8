"""Times and link counts of directories, after entries were created or removed in them.

The directory's record may be on another daemon than the entry's. A message for each create would double the cost,
so changes of one directory gather here and go out together: before the record is next asked for through this
mount, and to all others within `DIRECTORY_TOUCH_DELAY_S`.
"""

import errno
import logging
import time
from typing import NamedTuple

import trio

from gkfs.channel import Call
from gkfs.client.context import Context
from gkfs.client.inodes import Inode
from gkfs.client.pump import Gate
from gkfs.limits import DIRECTORY_TOUCH_DELAY_S
from gkfs.messages import Empty, TouchRequest
from gkfs.operations import TOUCH
from gkfs.paths import is_within, printable

log = logging.getLogger(__name__)


class _Touch(NamedTuple):
    """What the owner of a directory does not know."""

    directory: Inode
    mtime_ns: int
    subdirectories: int

    def request(self, path: bytes) -> TouchRequest:
        """It, for the path the directory has."""
        return TouchRequest(path, self.directory.fid, self.mtime_ns, self.subdirectories)


class Touches:
    """Changes of directories that their owners do not know of yet, by path."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waiting: dict[bytes, _Touch] = {}
        self._under_way: dict[int, Call[Empty]] = {}  # sent and not answered, by identity
        self._landing: list[Gate] = []  # to be opened when there are none any more
        self._work = trio.Event()

    def note(self, directory: Inode, subdirectories: int = 0) -> None:
        """An entry of *directory* came or went; *subdirectories*: by how much its link count changes."""
        path = self._context.inodes.path(directory)
        before = self._waiting.get(path)
        now_ns = time.time_ns()
        self._waiting[path] = _Touch(directory, now_ns, subdirectories + (before.subdirectories if before else 0))
        directory.touch(now_ns, subdirectories)
        self._work.set()

    def send(self, path: bytes) -> None:
        """Queue what is noted for *path*, so that a request queued next for it finds it done."""
        if path in self._waiting:
            self._send(path)

    async def send_all(self) -> None:
        """Send everything and wait until it is done: at the end, and where a program wants it on disk."""
        sent = [(path, *self._submit(path)) for path in list(self._waiting)]
        for path, touch, call in sent:
            await self._outcome(path, touch, call)
        while self._under_way:  # sent before, to a daemon that was away perhaps
            gate = Gate()
            self._landing.append(gate)
            await gate

    async def send_below(self, *tops: bytes) -> None:
        """Likewise what is noted for these and all below. Raises OSError (ETIMEDOUT)."""
        below = [path for path in self._waiting if any(is_within(path, top) for top in tops)]
        sent = [(path, *self._submit(path)) for path in below]
        late: TimeoutError | None = None
        for path, touch, call in sent:
            error = await self._outcome(path, touch, call)
            late = error if isinstance(error, TimeoutError) else late
        if late is not None:
            raise late

    async def run(self) -> None:
        """Send what is noted soon after, until cancelled."""
        while True:
            await self._work.wait()
            await trio.sleep(DIRECTORY_TOUCH_DELAY_S)
            self._work = trio.Event()
            for path in list(self._waiting):
                self._send(path)

    def _submit(self, path: bytes) -> tuple[_Touch, Call[Empty]]:
        """Send what is noted for *path*; `_outcome` must follow."""
        touch = self._waiting.pop(path)
        call = self._context.call_owner(path, TOUCH, touch.request(path))
        self._under_way[id(call)] = call
        return touch, call

    def _send(self, path: bytes) -> None:
        touch, call = self._submit(path)

        def done() -> None:
            if call.error is None:
                self._landed(call)
            else:
                self._context.pool.pump.start(self._outcome(path, touch, call))

        if call.done:  # of a daemon in this process
            done()
        else:
            call.on_done = done

    def _landed(self, call: Call[Empty]) -> None:
        self._under_way.pop(id(call), None)
        if not self._under_way:
            landing, self._landing = self._landing, []
            for gate in landing:
                gate.open()

    async def _outcome(self, path: bytes, touch: _Touch, call: Call[Empty]) -> OSError | None:
        """Wait for it, also for what its failure calls for; why it failed."""
        failure: OSError | None = None
        try:
            await call
        except OSError as error:
            failure = error
        try:
            if failure is not None:
                await self._failed(path, touch, failure)
        finally:
            self._landed(call)
        return failure

    async def _failed(self, path: bytes, touch: _Touch, error: OSError) -> None:
        """Say it once more where another node has renamed the directory to, if it has."""
        try:
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise error
            if await self._context.follow(touch.directory, path):
                await self._context.about(touch.directory, TOUCH, touch.request)
        except OSError as final:
            if final.errno not in (errno.ENOENT, errno.ESTALE):  # removed meanwhile: nothing left to touch
                log.warning("times of directory %s: %s", printable(path), final)
