"""What an earlier run of another daemon has sent is not executed after a later one has called."""

import errno
import time
from contextlib import suppress
from stat import S_IFREG

import trio

from gkfs import wire
from gkfs.daemon.runs import peer_id
from gkfs.hostfile import DaemonAddress
from gkfs.messages import CreateRequest, Empty, HelloRequest, StatRequest
from gkfs.operations import CREATE, HELLO, STAT, TREE
from gkfs.peer_messages import TREE_LOCK, TREE_UNDO, TreeRequest
from tests.daemon.raw import Raw, is_closed, known, with_daemon

INTENT = b"i" * 16


def tree(step: str) -> TreeRequest:
    return TreeRequest(INTENT, b"/x", b"/y", step, False, b"")


def create(path: bytes) -> CreateRequest:
    return CreateRequest(path, 1, S_IFREG | 0o644, 1, 2, 0, True, b"", time.time_ns())


@with_daemon
async def test_a_later_run_ends_the_connections_of_earlier_ones(address: DaemonAddress) -> None:
    earlier, other = await known(address, peer_id(1, 1), "peer"), await known(address, peer_id(2, 1), "peer")
    later = await known(address, peer_id(1, 2), "peer")
    with suppress(BrokenPipeError):
        await earlier.send(wire.encode_request(CREATE, 1, create(b"/a")))
    assert await is_closed(earlier)
    assert (await other.call(STAT, 1, StatRequest(b"/a", 0))).errno == errno.ENOENT
    assert (await later.call(STAT, 1, StatRequest(b"/a", 0))).errno == errno.ENOENT
    other.close()
    later.close()


@with_daemon
async def test_an_earlier_run_that_is_late_is_refused(address: DaemonAddress) -> None:
    later = await known(address, peer_id(1, 2), "peer")
    earlier = Raw(address)
    await earlier.prove(peer_id(1, 1), "peer")
    create_first = wire.encode_request(CREATE, 1, create(b"/a"))
    await earlier.send(wire.encode_request(HELLO, 0, HelloRequest("test")), create_first)
    assert await is_closed(earlier)
    assert (await later.call(STAT, 1, StatRequest(b"/a", 0))).errno == errno.ENOENT
    later.close()


@with_daemon
async def test_the_same_run_may_connect_again(address: DaemonAddress) -> None:
    run = peer_id(1, 2)
    first = await known(address, run, "peer")
    second = await known(address, run, "peer")
    assert await is_closed(first)
    assert (await second.call(CREATE, 1, create(b"/a"))).errno == 0
    second.close()


@with_daemon
async def test_what_was_blocked_is_given_up(address: DaemonAddress) -> None:
    earlier = await known(address, peer_id(1, 1), "peer")
    assert (await earlier.call(TREE, 1, tree(TREE_LOCK))).errno == 0
    await earlier.send(wire.encode_request(CREATE, 2, create(b"/x/a")))
    await trio.sleep(0.1)
    with trio.fail_after(5):  # not as long as it would have waited
        later = await known(address, peer_id(1, 2), "peer")
    assert wire.decode_reply(TREE, await later.call(TREE, 1, tree(TREE_UNDO))) == Empty()
    assert (await later.call(STAT, 2, StatRequest(b"/x/a", 0))).errno == errno.ENOENT
    later.close()
    earlier.close()


def test_each_run_has_an_id_of_its_own() -> None:
    ids = {peer_id(index, epoch) for index in range(3) for epoch in range(3)}
    assert len(ids) == 9
    assert {len(one) for one in ids} == {16}
