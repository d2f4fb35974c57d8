"""The table of handlers: which function executes which operation, and how they are put together."""

import trio

from gkfs.daemon.connection import Identity
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.guards import Guards
from gkfs.daemon.namespace import Fids, Namespace
from gkfs.daemon.peers import Peers
from gkfs.daemon.reclaim import Reclaimer
from gkfs.daemon.session import Sessions
from gkfs.daemon.storage import ChunkStorage
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.truncate import Chunks, Truncation
from gkfs.distributor import Distributor
from gkfs.operations import (
    ADOPT,
    CREATE,
    CUT_CHUNKS,
    EXTEND,
    FORGET_INTENT,
    PUT_RECORDS,
    READ_CHUNK,
    READDIR,
    RELEASE,
    RENAME,
    RESERVE,
    RMDIR,
    SEAL,
    SETATTR,
    STAT,
    SYNC_CHUNKS,
    TOUCH,
    TREE,
    TRUNCATE,
    UNLINK,
    UNSEAL,
    WRITE_CHUNK,
)


class Handlers:
    """All handlers of one daemon but those of `status`."""

    def __init__(
        self,
        identity: Identity,
        store: MetadataStore,
        storage: ChunkStorage,
        guards: Guards,
        peers: Peers,
        sessions: Sessions,
        nursery: trio.Nursery,
    ) -> None:
        distributor = Distributor(identity.daemon_count)
        fids = Fids(identity.daemon_index, identity.boot_epoch)
        self._nursery = nursery
        self._reclaimer = Reclaimer(
            identity.daemon_index, store, storage, guards, distributor, peers, sessions, nursery
        )
        self._namespace = Namespace(store, guards, distributor, peers, self._reclaimer, fids)
        self._truncation = Truncation(store, guards, distributor, peers, self._reclaimer)
        self._chunks = Chunks(storage)

    def register(self, dispatcher: Dispatcher) -> None:
        """Have *dispatcher* serve everything."""
        serve = dispatcher.serve
        serve(STAT, self._namespace.stat)
        serve(CREATE, self._namespace.create)
        serve(UNLINK, self._namespace.unlink)
        serve(READDIR, self._namespace.readdir)
        serve(SETATTR, self._namespace.setattr)
        serve(EXTEND, self._namespace.extend)
        serve(RESERVE, self._namespace.reserve)
        serve(TRUNCATE, self._truncation.truncate)
        serve(RELEASE, self._namespace.release)
        serve(TOUCH, self._namespace.touch)
        serve(WRITE_CHUNK, self._chunks.write)
        serve(READ_CHUNK, self._chunks.read)
        serve(CUT_CHUNKS, self._chunks.cut)
        serve(SYNC_CHUNKS, self._chunks.sync)
        for operation in (RMDIR, SEAL, UNSEAL, RENAME, ADOPT, FORGET_INTENT, TREE, PUT_RECORDS):
            serve(operation, _not_yet)

    def resume(self) -> None:
        """Set up what an earlier run has left to do; before the first request is served."""
        self._namespace.create_root()
        self._reclaimer.resume()
        self._nursery.start_soon(self._reclaimer.expire_orphans)


def _not_yet(session, request):  # type: ignore[no-untyped-def]
    raise NotImplementedError
