"""Runs of other daemons: what one has sent before it died is not executed after what its next run has.

The network may still have some of it then, and a daemon reads its connections in any order. A request that came
late would be done again: the answers that are kept for repeats go once the next run has ended what they belong to.
So a daemon says which one it is and in which of its runs, and waits until what earlier ones asked for has ended.
"""

import os
import struct
from typing import TYPE_CHECKING, Final

from gkfs.errors import ProtocolError
from gkfs.handshake import CLIENT_ID_BYTES

if TYPE_CHECKING:
    from gkfs.daemon.session import Session

_ID: Final = struct.Struct(f">IQ{CLIENT_ID_BYTES - 12}s")


def peer_id(daemon_index: int, boot_epoch: int) -> bytes:
    """The client id of a run of a daemon, as it calls others: of each run another one."""
    return _ID.pack(daemon_index, boot_epoch, os.urandom(CLIENT_ID_BYTES - 12))


class Runs:
    """The latest known run of each daemon."""

    def __init__(self) -> None:
        self._latest: dict[int, tuple[int, Session]] = {}

    async def begin(self, client_id: bytes) -> None:
        """Wait until nothing of an earlier run is executed any more. Raises ProtocolError if a later one has."""
        index, epoch, _ = _ID.unpack(client_id)
        while index in self._latest:
            known, session = self._latest[index]
            if known > epoch:
                raise ProtocolError(f"is run {epoch} of daemon {index}, of which run {known} has called")
            if known == epoch or not session.end():
                return
            await session.idle()

    def note(self, session: "Session") -> None:
        """*session* is that of a run for which `begin` has just returned."""
        index, epoch, _ = _ID.unpack(session.client_id)
        self._latest[index] = epoch, session
