"""Calls over one connection: merging, repeats, time-outs."""

import errno
import gc
import weakref
from typing import Any

import pytest

from gkfs import metadentry, wire
from gkfs.bulk_messages import PutReply, PutRequest
from gkfs.channel import Call, Channel
from gkfs.client.ahead import Block
from gkfs.errors import ProtocolError
from gkfs.limits import IN_FLIGHT_MAX
from gkfs.messages import Buffer, Empty, LookupReply, LookupRequest, RecordReply, StatRequest
from gkfs.metadentry import Metadentry
from gkfs.operations import LOOKUP, PUT, STAT, UNSEAL


def record(fid: int) -> bytes:
    return metadentry.encode(Metadentry.new(mode=0o100644, uid=0, gid=0, fid=fid, now_ns=1))


def connected() -> Channel:
    channel = Channel("daemon 0 (a, tcp://a:1)")
    channel.connection_made()
    return channel


def submit(channel: Channel, path: bytes = b"/a", deadline_s: float = 10.0) -> Call[RecordReply]:
    return channel.submit(STAT, StatRequest(path, 0), deadline_s)


def requests_in(pieces: list[Buffer]) -> list[wire.Message]:
    decoder = wire.Decoder()
    data = b"".join(map(bytes, pieces))
    decoder.buffer()[: len(data)] = data
    return decoder.received(len(data))


def answer(channel: Channel, pieces: list[Buffer]) -> None:
    data = b"".join(map(bytes, pieces))
    channel.buffer()[: len(data)] = data
    channel.received(len(data))


def test_calls_queued_together_leave_together() -> None:
    channel = connected()
    for number in range(5):
        submit(channel, b"/%d" % number)
    messages = requests_in(channel.take_output())
    assert [message.fields for message in messages] == [[b"/%d" % number, 0] for number in range(5)]
    assert channel.sent_batches == 1
    assert not channel.has_output


def test_replies_in_any_order_reach_their_calls() -> None:
    channel = connected()
    calls = [submit(channel) for _ in range(3)]
    for call in reversed(calls):
        answer(channel, wire.encode_reply(STAT, call.seq, RecordReply(record(call.seq))))
    assert [call.result().record for call in calls] == [record(call.seq) for call in calls]
    assert channel.idle


def test_an_error_reply_raises_its_errno_and_text() -> None:
    channel = connected()
    call = submit(channel)
    answer(channel, wire.encode_error(STAT.code, call.seq, errno.ENOENT, "/a is not there"))
    with pytest.raises(FileNotFoundError, match="/a is not there"):
        call.result()


def test_unanswered_calls_are_repeated_in_order_after_a_reconnect() -> None:
    channel = connected()
    calls = [submit(channel, b"/%d" % number) for number in range(3)]
    channel.take_output()
    answer(channel, wire.encode_reply(STAT, calls[1].seq, RecordReply(record(1))))
    channel.connection_lost()
    assert not channel.has_output
    channel.connection_made()
    assert [message.seq for message in requests_in(channel.take_output())] == [calls[0].seq, calls[2].seq]


def test_calls_made_while_disconnected_are_sent_once_connected() -> None:
    channel = Channel("daemon 0")
    call = submit(channel)
    assert not channel.has_output
    channel.connection_made()
    assert [message.seq for message in requests_in(channel.take_output())] == [call.seq]


def test_an_overdue_call_is_etimedout_and_names_the_daemon() -> None:
    channel = connected()
    late, early = submit(channel, deadline_s=1.0), submit(channel, deadline_s=3.0)
    channel.expire(2.0)
    assert late.done
    assert not early.done
    with pytest.raises(TimeoutError, match=r"stat: daemon 0 \(a, tcp://a:1\) did not answer"):
        late.result()


def test_a_late_reply_is_ignored() -> None:
    channel = connected()
    call = submit(channel, deadline_s=1.0)
    channel.expire(2.0)
    answer(channel, wire.encode_reply(STAT, call.seq, RecordReply(record(1))))
    assert call.error is not None


def test_calls_beyond_the_limit_wait_for_room() -> None:
    channel = connected()
    calls = [submit(channel) for _ in range(IN_FLIGHT_MAX + 1)]
    assert len(requests_in(channel.take_output())) == IN_FLIGHT_MAX
    answer(channel, wire.encode_reply(STAT, calls[0].seq, RecordReply(record(1))))
    assert [message.seq for message in requests_in(channel.take_output())] == [calls[-1].seq]


def test_an_answer_to_another_operation_is_a_protocol_error() -> None:
    channel = connected()
    call = submit(channel)
    with pytest.raises(ProtocolError):
        answer(channel, wire.encode_reply(UNSEAL, call.seq, Empty()))


def test_on_done_is_called_once_done() -> None:
    channel = connected()
    call = submit(channel)
    told: list[bool] = []
    call.on_done = lambda: told.append(call.done)
    channel.fail_all("has gone")
    assert told == [True]


class _Data(bytearray):
    """Bytes whose end can be seen."""


def test_a_call_that_is_done_and_who_waited_for_it_do_not_hold_each_other() -> None:
    """Else what was read would stay until the next search for garbage."""
    call: Call[Any] = Call(STAT, 1, [], 10.0)
    block = Block(call, 1, 0.0)
    data = _Data(b"x")
    gone = weakref.ref(data)
    gc.disable()
    try:
        call.finish(data, None)
        del block, call, data
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("spoilt", [b"", b"\1", record(1)[:-1], record(1) + b"\7", b"\2" + record(1)[1:]])
def test_a_record_that_is_none_is_an_error_of_that_call_only(spoilt: bytes) -> None:
    channel = connected()
    call, other = channel.submit(LOOKUP, LookupRequest(b"/a"), 10.0), submit(channel)
    answer(channel, wire.encode_reply(LOOKUP, call.seq, LookupReply(spoilt, False)))
    with pytest.raises(OSError, match=r"lookup: daemon 0 .*metadata record") as caught:
        call.result()
    assert caught.value.errno == errno.EIO
    answer(channel, wire.encode_reply(STAT, other.seq, RecordReply(record(1))))
    assert other.result().record == record(1)


def test_no_record_is_one_only_where_that_says_something() -> None:
    channel = connected()
    put = channel.submit(PUT, PutRequest(b"/a", 1, 0o100644, 0, 0, 0, 0, False, 0, 0, 0, b"", [], b""), 10.0)
    answer(channel, wire.encode_reply(PUT, put.seq, PutReply(7, b"")))
    assert put.result() == PutReply(7, b"")


def test_a_message_that_does_not_end_is_seen_and_others_that_do_begin_the_count_anew() -> None:
    channel = connected()
    calls = [submit(channel) for _ in range(3)]
    assert channel.stalled_s(1.0) is None
    whole = [b"".join(map(bytes, wire.encode_reply(STAT, call.seq, RecordReply(record(1))))) for call in calls]
    for data in (whole[0] + whole[1][:30],):
        channel.buffer()[: len(data)] = data
        channel.received(len(data))
    assert channel.stalled_s(2.0) == 0.0
    channel.buffer()[:5] = whole[1][30:35]  # more comes, but not all
    channel.received(5)
    assert channel.stalled_s(9.0) == 7.0
    rest = whole[1][35:] + whole[2][:10]
    channel.buffer()[: len(rest)] = rest
    channel.received(len(rest))
    assert channel.stalled_s(10.0) == 0.0  # another one
    channel.connection_lost()
    channel.connection_made()
    assert channel.stalled_s(100.0) is None
