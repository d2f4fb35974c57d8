"""The table of handlers: which function executes which operation, and how they are put together."""

import trio

from gkfs.daemon.adopt import Adoption
from gkfs.daemon.attributes import Attributes
from gkfs.daemon.bulk import Bulk
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.gate import Identity
from gkfs.daemon.guards import Guards
from gkfs.daemon.inline_data import InlineData
from gkfs.daemon.leases import Leases
from gkfs.daemon.links import Links
from gkfs.daemon.moves import Moves
from gkfs.daemon.name_leases import NameLeases
from gkfs.daemon.namespace import Fids, Namespace
from gkfs.daemon.opens import Opens
from gkfs.daemon.parents import Parents
from gkfs.daemon.peers import Peers
from gkfs.daemon.reclaim import Reclaimer
from gkfs.daemon.records import Records
from gkfs.daemon.rename import Renaming
from gkfs.daemon.rename_steps import RenameSteps
from gkfs.daemon.rmdir import Removal
from gkfs.daemon.session import Sessions
from gkfs.daemon.storage import ChunkStorage
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.tree import Trees
from gkfs.daemon.truncate import Chunks, Truncation
from gkfs.daemon.writers import Writers
from gkfs.distributor import Distributor
from gkfs.operations import (
    ADOPT,
    ALLOCATED,
    CHECKSUM,
    CREATE,
    CUT_CHUNKS,
    DETACH,
    DROP_LINK,
    EXTEND,
    FORGET_INTENT,
    HOLD,
    LEASE,
    LINK,
    LOOKUP,
    OUTGROW,
    PUT,
    PUT_INODE,
    PUT_RECORDS,
    READ_CHUNK,
    READDIR,
    RELEASE,
    REMOVEXATTR,
    RENAME,
    RESERVE,
    RMDIR,
    SCAN,
    SEAL,
    SETATTR,
    SETXATTR,
    STAT,
    SYNC_CHUNKS,
    TOUCH,
    TREE,
    TRUNCATE,
    UNLINK,
    UNSEAL,
    WHERE,
    WRITE_CHUNK,
    WRITE_INLINE,
    WRITE_LEASE,
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
        restarted = identity.boot_epoch > 1
        self._nursery = nursery
        self._owns_root = distributor.path_owner(ROOT) == own_index
        moves, room = Moves(restarted=restarted), storage.room
        records = Records(store, guards)
        leases = Leases(nursery, restarted=restarted)
        self.name_leases = NameLeases(nursery, store, restarted=restarted)
        writers = Writers(nursery, restarted=restarted)
        parents = Parents(own_index, store, guards, moves, distributor, peers)
        fids = Fids(own_index, identity.boot_epoch)
        self._reclaimer = Reclaimer(own_index, store, storage, guards, distributor, peers, nursery)
        self._opens = Opens(store, records, self._reclaimer, sessions, restarted=restarted)
        self._links = Links(
            store, records, guards, distributor, peers, self._opens, sessions, leases, writers, nursery, room
        )
        self._namespace = Namespace(
            store, records, guards, moves, parents, self._opens, self._links, fids, leases, self.name_leases, room
        )
        self._inline_data = InlineData(own_index, identity.daemon_count, records, leases, writers, storage)
        self._attributes = Attributes(records, leases, writers, self._inline_data, room)
        self._truncation = Truncation(
            store, records, guards, distributor, peers, self._reclaimer, self._inline_data, leases
        )
        self._chunks = Chunks(storage)
        self._removal = Removal(store, guards, parents, identity.daemon_count, peers, sessions, leases, nursery)
        self._bulk = Bulk(own_index, store, storage, guards, self.name_leases, parents, fids)
        self._trees = Trees(store, guards, self.name_leases, moves, writers, distributor, peers)
        self._adoption = Adoption(
            store, guards, moves, parents, self._opens, self._links, leases, self.name_leases, writers
        )
        steps = RenameSteps(store, guards, moves, distributor, peers, sessions, leases, writers, nursery)
        self._renaming = Renaming(own_index, records, steps, parents, self._adoption, leases)

    def register(self, dispatcher: Dispatcher) -> None:
        """Have *dispatcher* serve everything."""
        serve = dispatcher.serve
        serve(PUT, self._bulk.put)
        serve(SCAN, self._bulk.scan)
        serve(CHECKSUM, self._bulk.checksum)
        serve(LOOKUP, self._namespace.lookup)
        serve(STAT, self._namespace.stat)
        serve(LEASE, self._namespace.lease)
        serve(CREATE, self._namespace.create)
        serve(UNLINK, self._namespace.unlink)
        serve(READDIR, self._namespace.readdir)
        serve(WHERE, self._namespace.where)
        serve(SETATTR, self._attributes.setattr)
        serve(EXTEND, self._attributes.extend)
        serve(RESERVE, self._attributes.reserve)
        serve(WRITE_INLINE, self._inline_data.write)
        serve(OUTGROW, self._inline_data.outgrow)
        serve(WRITE_LEASE, self._inline_data.lease)
        serve(TOUCH, self._attributes.touch)
        serve(SETXATTR, self._attributes.setxattr)
        serve(REMOVEXATTR, self._attributes.removexattr)
        serve(HOLD, self._opens.hold)
        serve(RELEASE, self._opens.release)
        serve(DETACH, self._links.detach)
        serve(PUT_INODE, self._links.put_inode)
        serve(LINK, self._links.link)
        serve(DROP_LINK, self._links.drop_link)
        serve(TRUNCATE, self._truncation.truncate)
        serve(WRITE_CHUNK, self._chunks.write)
        serve(READ_CHUNK, self._chunks.read)
        serve(CUT_CHUNKS, self._chunks.cut)
        serve(ALLOCATED, self._chunks.allocated)
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
        self._links.resume()
        self._reclaimer.resume()
        self._opens.resume()
        self._nursery.start_soon(self._opens.expire)
