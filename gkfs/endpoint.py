"""What the client asks of a daemon that runs in its process. The daemon implements it, the client is given it.

The packages of client and daemon do not know each other: whoever starts both in one process hands one the other.
"""

from collections.abc import Callable
from typing import Protocol

from gkfs.channel import Call
from gkfs.operations import Operation, Q, R


class LocalDaemon(Protocol):
    """A daemon that is called, not sent to; on the thread of the event loop that both run in."""

    daemon_index: int

    def call(self, operation: Operation[Q, R], request: Q, timeout_s: float) -> Call[R]:
        """Execute *request*; the call is done already when nothing had to be waited for. Never raises.

        It fails as one over a connection does, ETIMEDOUT after *timeout_s* included. Data in *request* must stay
        unchanged until it is done.
        """

    def expire(self, now_s: float) -> None:
        """Fail the calls that should have been done by *now_s*, on the monotonic clock."""

    def close(self, reason: str) -> None:
        """The client is gone; calls still waiting fail with *reason*."""


# From the id of a client, and what to call after calls that were completed later, to its daemon.
Connect = Callable[[bytes, Callable[[], None]], LocalDaemon]
