"""Whether a path leads to the directory that the client means: an entry may be found, appear or go there.

Records of a directory's children are on all daemons, so most of them do not have the directory's own record. What
they do have: a seal for each directory that was removed (see `rmdir`), and for a while the old paths of
directories that were renamed. Only below those the owner of the parent must be asked; everywhere, while a daemon
that was started anew may not remember one. What it says holds until a directory is renamed: every daemon takes
part in that.
"""

import errno

from gkfs import paths
from gkfs.daemon import keys
from gkfs.daemon.guards import Guards
from gkfs.daemon.moves import Moves
from gkfs.daemon.peers import Peers
from gkfs.daemon.store import MetadataStore
from gkfs.distributor import Distributor
from gkfs.errors import os_error
from gkfs.limits import VERIFIED_DIRECTORIES_MAX
from gkfs.messages import StatRequest
from gkfs.metadentry import ROOT_FID
from gkfs.operations import STAT


class Parents:
    """Checks of parents, for all that is asked about names."""

    def __init__(
        self,
        own_index: int,
        store: MetadataStore,
        guards: Guards,
        moves: Moves,
        distributor: Distributor,
        peers: Peers,
    ) -> None:
        self._own_index = own_index
        self._store = store
        self._guards = guards
        self._moves = moves
        self._distributor = distributor
        self._peers = peers
        # fid -> (path, directories renamed until then), of directories that were asked for
        self._verified: dict[int, tuple[bytes, int]] = {}

    def check(self, path: bytes, parent_fid: int) -> None:
        """Raise OSError (ENOENT) when that directory was removed, Blocked while this is undecided; 0: no check.

        EINVAL when *path* belongs to another daemon: nobody would look for it here.
        """
        if self._distributor.path_owner(path) != self._own_index:
            raise os_error(errno.EINVAL, f"{paths.printable(path)} belongs to another daemon")
        if parent_fid and self._store.get(keys.seal(parent_fid)) is not None:
            self._guards.check_seal(parent_fid)
            raise _removed(path)

    def need_verification(self, path: bytes, parent_fid: int) -> bool:
        """Whether a directory above *path* may have been renamed lately, so that `verify` must be asked."""
        if parent_fid in (0, ROOT_FID) or not self._moves.was_moved(path):
            return False
        known = self._verified.get(parent_fid) == (paths.split(path)[0], self._moves.directory_count)
        return not known or self._store.get(keys.seal(parent_fid)) is not None

    async def verify(self, path: bytes, parent_fid: int) -> None:
        """Raise OSError unless the parent of *path* is the directory *parent_fid* when this returns.

        ENOENT: it was removed; ESTALE: it is somewhere else. Who walked to it walks again then.
        """
        parent = paths.split(path)[0]
        moves = -1
        while moves != self._moves.directory_count:
            moves = self._moves.directory_count
            try:
                await self._peers.call(self._distributor.path_owner(parent), STAT, StatRequest(parent, parent_fid))
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
                if self._store.get(keys.seal(parent_fid)) is not None:
                    raise _removed(path) from None
                raise os_error(errno.ESTALE, f"{paths.printable(path)}: its directory was moved") from None
        if len(self._verified) >= VERIFIED_DIRECTORIES_MAX:
            self._verified.clear()
        self._verified[parent_fid] = parent, moves


def _removed(path: bytes) -> OSError:
    return os_error(errno.ENOENT, f"{paths.printable(path)}: its directory was removed")
