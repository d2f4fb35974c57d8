"""A daemon, or whoever else has a `Peer`, calls a daemon over a connection that fails in the middle."""

import os
from pathlib import Path

import pytest
import trio

from gkfs.daemon import peers as peers_module
from gkfs.daemon.peers import Peer
from gkfs.hostfile import DaemonAddress
from gkfs.messages import StatRequest
from gkfs.operations import STAT
from tests.daemon.raw import ACCESS, daemon
from tests.relay import Relay


def test_a_reply_that_does_not_end_is_asked_for_again_over_another_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers_module, "RECEIVE_STALL_S", 0.3)

    async def main() -> None:
        async with daemon(tmp_path) as address, trio.open_nursery() as nursery:
            with Relay(address) as relay:

                async def locate() -> DaemonAddress:
                    return relay.address

                peer = Peer("daemon 0", locate, ACCESS, os.urandom(16), "client")
                nursery.start_soon(peer.run)
                whole = await peer.call(STAT, StatRequest(b"/", 0))
                relay.to_client = lambda _, piece: piece[:-1] if relay.connections == 1 else piece
                begun_s = trio.current_time()
                assert await peer.call(STAT, StatRequest(b"/", 0), 20.0) == whole
                assert trio.current_time() - begun_s >= 0.3
                assert relay.connections == 2
                nursery.cancel_scope.cancel()

    trio.run(main)
