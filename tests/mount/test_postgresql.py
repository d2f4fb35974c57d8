"""PostgreSQL keeps its data on a mount: through its own crash, and through that of the node it runs on."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import Place, close_file_system, open_file_system
from tests.mount.file_system import FileSystem, is_alive, wait_until
from tests.mount.postgresql import USER, Run, Server, broken_off, find_programs
from tests.mount.programs import run


@pytest.fixture
def folder(open_folder: Path) -> Path:
    """Where the server and the file system are."""
    find_programs()
    return open_folder


def _own(path: Path) -> Path:
    path.mkdir(mode=0o700)
    os.chown(path, USER, USER)
    return path


@pytest.fixture
def nodes(folder: Path) -> Iterator[FileSystem]:
    """A file system whose two mounts all users can use."""
    file_system = open_file_system(folder / "gkfs", daemons=3, mounts=0)
    try:
        for _ in range(2):
            file_system.mount("--allow-other")
        yield file_system
    finally:
        problems = close_file_system(file_system)
    if problems:
        pytest.fail("\n".join(problems))


@pytest.fixture(params=["disk", "mount"])
def data(request: pytest.FixtureRequest, folder: Path) -> Place:
    """Where the data is to be, here and on another node; the disk shows that the test is right."""
    if request.param == "disk":
        own = _own(folder / "data")
        return Place(own, own, mounted=False)
    mounts = request.getfixturevalue("nodes").mounts
    _own(mounts[0] / "data")
    return Place(mounts[0] / "data", mounts[1] / "data", mounted=True)


@pytest.fixture
def server(data: Place, folder: Path) -> Iterator[Server]:
    """A running server with the tables of pgbench."""
    new = Server(data.here / "cluster", _own(folder / "local"))
    try:
        new.create()
        new.start()
        new.program("pgbench", "-q", "-i", "-s", "1")
        yield new
    finally:
        new.close()


def assert_consistent(server: Server, runs: list[Run]) -> None:
    """Nothing that was committed is missing, nothing is there in part, indexes and tables agree."""
    sums = server.sql(
        "SELECT sum(abalance) FROM pgbench_accounts",
        "SELECT sum(tbalance) FROM pgbench_tellers",
        "SELECT sum(bbalance) FROM pgbench_branches",
        "SELECT sum(delta) FROM pgbench_history",
    ).split()
    assert len(set(sums)) == 1, f"accounts, tellers, branches and history differ: {sums}"
    transactions = int(server.sql("SELECT count(*) FROM pgbench_history"))
    committed = sum(one.committed for one in runs)
    # What was not acknowledged, one of each client at most, may or may not have been committed.
    assert committed <= transactions <= committed + sum(one.clients for one in runs)
    server.sql("CREATE EXTENSION IF NOT EXISTS amcheck")
    checks = "SELECT bt_index_check(indexrelid, true) FROM pg_index WHERE indrelid::regclass::text LIKE 'pgbench%'"
    assert server.sql(f"SELECT count(*) FROM ({checks}) AS checked") == "3"


def test_postgresql_recovers_from_kill_and_keeps_its_tables(server: Server, data: Place) -> None:
    runs = [server.bench(clients=4, seconds=1)]
    assert_consistent(server, runs)

    bench = server.bench_until_killed(clients=4)
    time.sleep(1)
    server.kill()
    runs.append(broken_off(4, bench))
    server.start()
    assert "automatic recovery in progress" in server.log()
    assert_consistent(server, runs)

    dump = server.program("pg_dump")
    server.sql("VACUUM FULL pgbench_accounts", "CLUSTER pgbench_accounts USING pgbench_accounts_pkey")
    server.sql("ALTER TABLE pgbench_accounts SET WITHOUT CLUSTER", "REINDEX TABLE pgbench_accounts")
    server.sql("CREATE DATABASE copy", "DROP DATABASE copy")
    assert_consistent(server, runs)
    before, dump = dump, server.program("pg_dump")
    assert sorted(_rows(dump)) == sorted(_rows(before))
    server.stop()
    server.program("pg_checksums", "--check", "-D", data.here / "cluster")
    server.data = data.there / "cluster"
    server.start()
    assert _rows(server.program("pg_dump")) == _rows(dump)
    server.stop()


def _rows(dump: str) -> list[str]:
    """The lines of a dump but those with a key that newer versions make up for each dump."""
    return [line for line in dump.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]


def test_postgresql_recovers_on_another_node(nodes: FileSystem, folder: Path) -> None:
    """Its node dies with all that was not synced; another node starts it, and all that was committed is there."""
    here, there = nodes.mounts
    server = Server(folder / "local" / "cluster", _own(folder / "local"))
    try:
        server.create()
        server.start()
        server.program("pgbench", "-q", "-i", "-s", "1")
        server.stop()
        run("cp", "-a", server.data, here / "cluster")
        server.data = here / "cluster"
        server.start()
        bench = server.bench_until_killed(clients=4)
        time.sleep(1)
        client = nodes.client_pid(here)
        os.kill(client, signal.SIGKILL)
        wait_until(lambda: not is_alive(client), "the client is dead")
        server.kill()
        runs = [broken_off(4, bench)]
        nodes.gkfs("umount", here)
        nodes.mounts.remove(here)
        server.data = there / "cluster"
        server.start()
        assert_consistent(server, runs)
        runs.append(server.bench(clients=4, seconds=1))
        assert_consistent(server, runs)
        server.stop()
    finally:
        server.close()
