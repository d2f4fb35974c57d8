"""STATUS, SHUTDOWN and SYNC_METADATA: what concerns the daemon as a whole."""

import os
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

from gkfs import __version__
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.gate import Identity
from gkfs.daemon.session import Session, Sessions
from gkfs.daemon.storage import ChunkStorage
from gkfs.daemon.store import MetadataStore
from gkfs.messages import Empty, StatusReply, SyncMetadataRequest


class Control:
    """The handlers. *stop* has the daemon stop, after the replies due have been sent."""

    def __init__(
        self,
        identity: Identity,
        store: MetadataStore,
        storage: ChunkStorage,
        sessions: Sessions,
        dispatcher: Dispatcher,
        stop: Callable[[], None],
    ) -> None:
        self._identity = identity
        self._store = store
        self._storage = storage
        self._sessions = sessions
        self._dispatcher = dispatcher
        self._stop = stop
        self._started_ns = time.time_ns()

    def status(self, session: Session, request: Empty) -> StatusReply:
        free_bytes, total_bytes, device = self._storage.room.disk()
        return StatusReply(
            daemon_index=self._identity.daemon_index,
            host=socket.gethostname(),
            pid=os.getpid(),
            software=__version__,
            started_ns=self._started_ns,
            files=self._store.files,
            directories=self._store.directories,
            used_bytes=self._storage.room.chunks_bytes,
            free_bytes=free_bytes,
            total_bytes=total_bytes,
            device=device,
            requests=self._dispatcher.requests,
            batches=self._dispatcher.batches,
            connections=self._sessions.connected(),
            copies=self._dispatcher.mirror.copies if self._dispatcher.mirror is not None else 1,
            records_bytes=self._store.disk_bytes(),
            capacity_bytes=self._storage.room.capacity_bytes,
            damaged_blocks=self._storage.damaged_blocks,
        )

    def shutdown(self, session: Session, request: Empty) -> Empty:
        self._stop()
        return Empty()

    def sync_metadata(self, session: Session, request: SyncMetadataRequest) -> Coroutine[Any, Any, Empty]:
        return self._sync()

    async def _sync(self) -> Empty:
        await self._store.sync()
        return Empty()
