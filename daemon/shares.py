"""What one connection may have a daemon keep in memory: its share of what all of them may.

Bytes that wait to be sent to it, and bytes of its requests that tasks work on, each. With few connections each has
`SHARE_MAX_BYTES`; with many they share `SHARES_BYTES`, but each has at least what it takes to go on.
"""

from gkfs.limits import SHARE_LEAST_BYTES, SHARE_MAX_BYTES, SHARES_BYTES


class Shares:
    """All connections of one daemon. *connections*: how many there are."""

    def __init__(self) -> None:
        self.connections = 0

    @property
    def each_bytes(self) -> int:
        """The share of one."""
        if self.connections * SHARE_MAX_BYTES <= SHARES_BYTES:
            return SHARE_MAX_BYTES
        return max(SHARE_LEAST_BYTES, SHARES_BYTES // self.connections)
