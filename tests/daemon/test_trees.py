"""The lock of a directory rename, by messages to a real daemon."""

import errno
import time
from stat import S_IFREG

import trio

from gkfs import metadentry, wire
from gkfs.daemon.runs import peer_id
from gkfs.hostfile import DaemonAddress
from gkfs.messages import CreateRequest, Empty, WriteLeaseReply, WriteLeaseRequest
from gkfs.operations import CREATE, PUT_RECORDS, SEAL, TREE, WRITE_LEASE
from gkfs.peer_messages import TREE_LOCK, TREE_UNDO, PutRecordsRequest, SealRequest, TreeRequest
from tests.daemon.raw import Raw, known, with_daemon

FILE = b"/x/file"


def tree(step: str, intent: bytes = b"i" * 16) -> TreeRequest:
    return TreeRequest(intent, b"/x", b"/y", step, False, b"")


def create(path: bytes) -> CreateRequest:
    return CreateRequest(path, 1, S_IFREG | 0o644, 1, 2, 0, True, b"", time.time_ns())


async def declare(client: Raw, seq: int, fid: int, *, behind: bool) -> bool:
    answer = await client.call(WRITE_LEASE, seq, WriteLeaseRequest(FILE, fid, behind, True))
    reply = wire.decode_reply(WRITE_LEASE, answer)
    assert isinstance(reply, WriteLeaseReply)
    return reply.leased


async def leased_file(client: Raw) -> int:
    """The fid of a file that *client* has the lease to write to."""
    reply = wire.decode_reply(CREATE, await client.call(CREATE, 1, create(FILE)))
    fid = metadentry.fid_of(reply.record)
    assert await declare(client, 2, fid, behind=False)
    return fid


@with_daemon
async def test_a_lock_waits_until_what_is_being_written_below_is_there(address: DaemonAddress) -> None:
    client, peer = await known(address), await known(address, peer_id(1, 1), "peer")
    fid = await leased_file(client)
    await peer.send(wire.encode_request(TREE, 1, tree(TREE_LOCK)))
    await trio.sleep(0.1)
    assert not await declare(client, 3, fid, behind=True), "it learns of it"
    assert not await declare(client, 4, fid, behind=False)
    assert wire.decode_reply(TREE, await peer.receive()) == Empty()
    client.close()
    peer.close()


@with_daemon
async def test_a_lock_that_was_taken_back_while_it_waited_is_none(address: DaemonAddress) -> None:
    client, peer = await known(address), await known(address, peer_id(1, 1), "peer")
    fid = await leased_file(client)
    await peer.send(wire.encode_request(TREE, 1, tree(TREE_LOCK)))
    await trio.sleep(0.1)
    undone = await peer.call(TREE, 2, tree(TREE_UNDO))
    assert undone.seq == 2
    assert wire.decode_reply(TREE, undone) == Empty()
    assert not await declare(client, 3, fid, behind=True)
    assert not await declare(client, 4, fid, behind=False)
    late = await peer.receive()
    assert (late.seq, late.errno) == (1, errno.EBUSY)
    with trio.fail_after(5):
        assert (await client.call(CREATE, 5, create(b"/x/other"))).errno == 0
    assert wire.decode_reply(TREE, await peer.call(TREE, 3, tree(TREE_LOCK, b"j" * 16))) == Empty()
    client.close()
    peer.close()


@with_daemon
async def test_copies_of_a_rename_that_is_given_up_make_no_directory_full(address: DaemonAddress) -> None:
    """Another daemon, which has its record, may have lifted the lock before."""
    renaming, removing = await known(address, peer_id(1, 1), "peer"), await known(address, peer_id(2, 1), "peer")
    assert wire.decode_reply(TREE, await renaming.call(TREE, 1, tree(TREE_LOCK))) == Empty()
    entry = metadentry.Metadentry.new(mode=S_IFREG | 0o644, uid=0, gid=0, fid=7, now_ns=1)
    copied = PutRecordsRequest(b"i" * 16, [b"/y/file"], [metadentry.encode(entry)])
    assert wire.decode_reply(PUT_RECORDS, await renaming.call(PUT_RECORDS, 2, copied)) == Empty()
    assert (await removing.call(SEAL, 1, SealRequest(b"/y", 9))).errno == errno.EBUSY, "it asks again"
    assert wire.decode_reply(TREE, await renaming.call(TREE, 3, tree(TREE_UNDO))) == Empty()
    assert wire.decode_reply(SEAL, await removing.call(SEAL, 2, SealRequest(b"/y", 9))) == Empty()
    renaming.close()
    removing.close()
