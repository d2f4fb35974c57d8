"""What is fuzzed without a process of its own: one function of bytes for each decoder.

A target raises nothing, whatever it is given: the errors that a decoder may raise are expected here, all others
are what is looked for. The tests, the corpus and both engines of long runs have the same targets.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from gkfs import config, container, gang_wire, hostfile, manifest, metadentry, transport, wire
from gkfs.channel import Call, Channel
from gkfs.config import CONFIG_VARIABLE
from gkfs.errors import GkfsError, ProtocolError
from gkfs.limits import MESSAGE_BODY_MAX_BYTES, MESSAGE_BULK_MAX_BYTES
from gkfs.messages import LookupRequest, ReadChunkRequest, ReaddirRequest, StatRequest
from gkfs.operations import LOOKUP, READ_CHUNK, READDIR, STAT, TABLE
from gkfs.tally import Tally
from gkfs.usage_messages import UsageReply

_MESSAGE_MAX_BYTES: Final = MESSAGE_BODY_MAX_BYTES + MESSAGE_BULK_MAX_BYTES


def wire_frames(data: bytes) -> None:
    """Frames as they reach either end: whatever is whole is decoded as request and as reply."""
    decoder = wire.Decoder()
    position = 0
    with contextlib.suppress(ProtocolError):
        while position < len(data):
            buffer = decoder.buffer()
            assert 0 < len(buffer) <= _MESSAGE_MAX_BYTES
            count = min(len(buffer), len(data) - position)
            buffer[:count] = data[position : position + count]
            position += count
            for message in decoder.received(count):
                _decode(message)


def _decode(message: wire.Message) -> None:
    operation = TABLE.get(message.code)
    if operation is None:
        return
    with contextlib.suppress(ProtocolError):
        wire.decode_request(operation, message)
    with contextlib.suppress(ProtocolError):
        reply = wire.decode_reply(operation, message)
        if isinstance(reply, UsageReply):
            for packed in reply.tallies:
                with contextlib.suppress(ValueError, TypeError):
                    Tally.unpack(packed)


def replies(data: bytes) -> None:
    """Frames that reach a client with calls in flight: each call is done, or waits on, and none is lost."""
    channel = Channel("daemon 0")
    channel.connection_made()
    calls: list[Call[Any]] = [
        channel.submit(STAT, StatRequest(b"/a", 1), 1.0),
        channel.submit(LOOKUP, LookupRequest(b"/a"), 1.0),
        channel.submit(READDIR, ReaddirRequest(b"/", 0, b"", 10), 1.0),
        channel.submit(READ_CHUNK, ReadChunkRequest(1, 0, 0, 10), 1.0),
    ]
    channel.take_output()
    position = 0
    with contextlib.suppress(ProtocolError):
        while position < len(data):
            buffer = channel.buffer()
            count = min(len(buffer), len(data) - position)
            buffer[:count] = data[position : position + count]
            position += count
            channel.received(count)
    channel.connection_lost()
    channel.expire(2.0)
    for call in calls:
        assert call.done
        assert call.error is None or call.error.errno in range(1, 134)
        if call.error is None:
            assert type(call.result()) is call.operation.reply
    assert channel.idle


def gang_messages(data: bytes) -> None:
    """Bytes between the processes of a job, in pieces as they come: messages, or an end."""
    decoder, position, size = gang_wire.Decoder(), 0, 1 + len(data) % 61
    with contextlib.suppress(gang_wire.GangEnded):
        while position < len(data):
            for message in decoder.feed(data[position : position + size]):
                assert type(message) is dict
                with contextlib.suppress(ValueError):  # nested more deeply than can be written
                    assert len(gang_wire.Decoder().feed(gang_wire.encode(message))) == 1
            position += size
            assert len(decoder._buffer) <= position


def hostfiles(data: bytes) -> None:
    """A hostfile; every address in it can be looked at."""
    with contextlib.suppress(GkfsError, UnicodeDecodeError):
        found = hostfile.parse(data.decode(), "name")
        for address in found.daemons.values():
            assert len(hostfile.format_daemon(address).split()) == 4
            if address.tcp != hostfile.NO_ADDRESS:
                transport.tcp_address(address.tcp)
            if address.unix != hostfile.NO_ADDRESS:
                transport.unix_path(address.unix).is_socket()


def addresses(data: bytes) -> None:
    """An address that somebody gave on a command line."""
    text = os.fsdecode(data)
    with contextlib.suppress(GkfsError):
        host, port = transport.tcp_address(text)
        assert host
        assert 0 <= port < 65536
    name = Path("/x") / text.replace("\0", "/")
    assert transport.unix_path(transport.unix_uri(name)) == name.absolute()


def configurations(data: bytes) -> None:
    """A configuration file."""
    with tempfile.NamedTemporaryFile(dir=_memory()) as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(GkfsError):
            found = config.load(Path(file.name))
            config.effective(found, {CONFIG_VARIABLE: file.name})
            for verb in config.VERBS:
                found.values_for(verb)


def records(data: bytes) -> None:
    """A metadata record; what is one is encoded again to what says the same."""
    with contextlib.suppress(ValueError):
        entry = metadentry.decode(data)
        assert metadentry.decode(metadentry.encode(entry)) == entry
        metadentry.decode(metadentry.without_inline(data))
        metadentry.is_plain_file_record(data)
        metadentry.allocated_sectors(entry)
        metadentry.encode(entry.link())


def tables(data: bytes) -> None:
    """The table of an index of a pack, with a right digest: whoever made it can make that, too."""
    with contextlib.suppress(container.Damaged):
        container.decode_table(data, container.digest(data))


def blocks(data: bytes) -> None:
    """A block of an index of a pack, with a right digest."""
    segment = container.Segment(0, 1 << 40, 1, 0, len(data), container.digest(data))
    with contextlib.suppress(container.Damaged):
        for entry in container.decode_block(data, segment):
            position = entry.offset
            pieces = container.pieces(entry, 1 << 20)
            for _ in range(100):  # of petabytes of data there are many
                piece = next(pieces, None)
                if piece is None:
                    break
                assert piece.length >= 0
                assert piece.offset >= position
                position = piece.offset
            list(container.holes(entry))
            assert entry.is_part in (False, True)


def manifests(data: bytes) -> None:
    """The manifest of a pack; its digest is made right where there is one."""
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(data)
        if isinstance(document, dict):
            document.pop("digest", None)
            document["digest"] = manifest._digest(document)
            data = json.dumps(document).encode("ascii")
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        (Path(folder) / manifest.NAME).write_bytes(data)
        with contextlib.suppress(GkfsError):
            found = manifest.read(Path(folder))
            assert found.tree
            assert all("/" not in one.name for one in found.data)


def _memory() -> str | None:
    """Where files cost least."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "wire": wire_frames,
    "replies": replies,
    "gang": gang_messages,
    "hostfile": hostfiles,
    "address": addresses,
    "configuration": configurations,
    "record": records,
    "table": tables,
    "block": blocks,
    "manifest": manifests,
}
CORPUS: Final = Path(__file__).parent / "corpus"


def corpus(target: str) -> list[bytes]:
    """The kept inputs of a target."""
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]
