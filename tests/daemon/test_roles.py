"""Who may ask for what; and batches that change one thing twice."""

from pathlib import Path
from typing import Any

import pytest

from gkfs import wire
from gkfs.audit_messages import AuditFilesRequest
from gkfs.hostfile import DaemonAddress
from gkfs.messages import (
    CutChunksRequest,
    LookupRequest,
    WriteChunkRequest,
)
from gkfs.operations import (
    AUDIT_FILES,
    AUDIT_STORE,
    COPY_BEGIN,
    CUT_CHUNKS,
    LOCATE,
    LOOKUP,
    MEND,
    SEAL,
    TABLE,
    WRITE_CHUNK,
)
from tests.daemon.raw import is_closed, known, with_daemon

FID = 77


def run_with_daemon(test: Any, folder: Path) -> None:
    with_daemon(test)(folder)


def test_steps_between_daemons_and_repairs_have_their_role() -> None:
    assert {row.name for row in TABLE.values() if row.role == "control"} == {
        "audit_chunks",
        "audit_files",
        "audit_store",
        "mend",
    }
    peers = {row.code for row in TABLE.values() if row.role == "peer"}
    assert peers == {code for code in TABLE if SEAL.code <= code < LOCATE.code}
    assert {row.code for row in TABLE.values() if row.role == "copy"} == {
        code for code in TABLE if code >= COPY_BEGIN.code
    }


@pytest.mark.parametrize(("operation", "role"), [(SEAL, "client"), (MEND, "client"), (AUDIT_STORE, "peer")])
def test_a_request_in_another_role_closes_the_connection(operation: Any, role: str, tmp_path: Path) -> None:
    requests: dict[Any, list[Any]] = {SEAL: [b"/a", 1], MEND: [[], [], []], AUDIT_STORE: [b"", b"\xff"]}

    async def send(address: DaemonAddress) -> None:
        raw = await known(address, role=role)
        await raw.send(wire.encode_request(operation, 1, operation.request(*requests[operation])))
        assert await is_closed(raw)

    run_with_daemon(send, tmp_path)


@with_daemon
async def test_a_chunk_removed_and_written_in_one_batch_is_known(address: DaemonAddress) -> None:
    raw = await known(address, role="control")
    await raw.call(WRITE_CHUNK, 1, WriteChunkRequest(FID, 0, 0, b"old"))
    await raw.send(
        wire.encode_request(CUT_CHUNKS, 2, CutChunksRequest(FID, 0)),
        wire.encode_request(WRITE_CHUNK, 3, WriteChunkRequest(FID, 0, 0, b"new")),
        wire.encode_request(LOOKUP, 4, LookupRequest(b"/")),
    )
    for _ in range(3):
        assert (await raw.receive()).errno == 0
    assert (await raw.call(AUDIT_FILES, 5, AuditFilesRequest(b""))).fields[0] == []
    raw.close()
