"""The table of handlers: which function executes which operation, and how they are put together."""

import trio

from gkfs.daemon.adopt import Adoption
from gkfs.daemon.connection import Identity
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.guards import Guards
from gkfs.daemon.leases import Leases
from gkfs.daemon.namespace import Fids, Namespace
from gkfs.daemon.parents import Parents
from gkfs.daemon.peers import Peers
from gkfs.daemon.reclaim import Reclaimer
from gkfs.daemon.rename import Renaming
from gkfs.daemon.rmdir import Removal
from gkfs.daemon.session import Sessions
from gkfs.daemon.storage import ChunkStorage
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.tree import Trees
from gkfs.daemon.truncate import Chunks, Truncation
from gkfs.distributor import Distributor
from gkfs.operations import (
    ADOPT,
    CREATE,
    CUT_CHUNKS,
    EXTEND,
    FORGET_INTENT,
    LOOKUP,
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
from gkfs.paths import ROOT


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
        own_index = identity.daemon_index
        self._nursery = nursery
        self._owns_root = distributor.path_owner(ROOT) == own_index
        self._reclaimer = Reclaimer(own_index, store, storage, guards, distributor, peers, sessions, nursery)
        parents = Parents(store, guards, distributor, peers)
        fids = Fids(own_index, identity.boot_epoch)
        leases = Leases(nursery, restarted=identity.boot_epoch > 1)
        self._namespace = Namespace(store, guards, parents, self._reclaimer, fids, leases)
        self._truncation = Truncation(store, guards, distributor, peers, self._reclaimer)
        self._chunks = Chunks(storage)
        self._removal = Removal(store, guards, identity.daemon_count, peers, sessions, leases, nursery)
        self._trees = Trees(store, guards, distributor, peers)
        self._adoption = Adoption(store, guards, parents, self._reclaimer, leases)
        self._renaming = Renaming(
            store, guards, own_index, distributor, peers, parents, self._adoption, sessions, leases, nursery
        )

    def register(self, dispatcher: Dispatcher) -> None:
        """Have *dispatcher* serve everything."""
        serve = dispatcher.serve
        serve(LOOKUP, self._namespace.lookup)
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
        serve(RMDIR, self._removal.rmdir)
        serve(SEAL, self._removal.seal)
        serve(UNSEAL, self._removal.unseal)
        serve(RENAME, self._renaming.rename)
        serve(ADOPT, self._adoption.adopt)
        serve(FORGET_INTENT, self._adoption.forget)
        serve(TREE, self._trees.tree)
        serve(PUT_RECORDS, self._trees.put_records)

    def resume(self) -> None:
        """Set up what an earlier run has left to do; before the first request is served."""
        if self._owns_root:
            self._namespace.create_root()
        self._trees.resume()
        self._removal.resume()
        self._renaming.resume()
        self._reclaimer.resume()
        self._nursery.start_soon(self._reclaimer.expire_orphans)
