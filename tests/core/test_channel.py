"""Calls over one connection: merging, repeats, time-outs."""

import errno

import pytest

from gkfs import wire
from gkfs.channel import Call, Channel
from gkfs.errors import ProtocolError
from gkfs.limits import IN_FLIGHT_MAX
from gkfs.messages import Buffer, Empty, RecordReply, StatRequest
from gkfs.operations import STAT, UNSEAL


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
        answer(channel, wire.encode_reply(STAT, call.seq, RecordReply(b"record %d" % call.seq)))
    assert [call.result().record for call in calls] == [b"record %d" % call.seq for call in calls]
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
    answer(channel, wire.encode_reply(STAT, calls[1].seq, RecordReply(b"")))
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
    answer(channel, wire.encode_reply(STAT, call.seq, RecordReply(b"late")))
    assert call.error is not None


def test_calls_beyond_the_limit_wait_for_room() -> None:
    channel = connected()
    calls = [submit(channel) for _ in range(IN_FLIGHT_MAX + 1)]
    assert len(requests_in(channel.take_output())) == IN_FLIGHT_MAX
    answer(channel, wire.encode_reply(STAT, calls[0].seq, RecordReply(b"")))
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
