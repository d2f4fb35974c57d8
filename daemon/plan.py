"""What one rename is to do, in the form in which its intent stores it. Pure."""

from typing import NamedTuple

from gkfs import metadentry
from gkfs.messages import RENAME_EXCHANGE
from gkfs.peer_messages import AdoptRequest


class Plan(NamedTuple):
    """A rename under way; its fields are those of its intent."""

    name: bytes  # of the intent
    source: bytes
    target: bytes
    parent_fid: int
    flags: int
    open_fid: int
    client_id: bytes
    now_ns: int
    record: bytes  # as it will be under the target's path
    seq: int  # of the client's request
    replaced_fid: int = 0  # of a directory, once it is adopted
    tree: bool = False  # source, or what it is exchanged with, is a directory

    @property
    def is_exchange(self) -> bool:
        return bool(self.flags & RENAME_EXCHANGE)

    @property
    def fid(self) -> int:
        return metadentry.fid_of(self.record)

    def adopt_request(self) -> AdoptRequest:
        """What the target's owner is asked to do."""
        return AdoptRequest(
            self.name,
            self.target,
            self.record,
            self.parent_fid,
            self.flags,
            self.open_fid,
            self.client_id,
            self.now_ns,
            self.source,
        )
