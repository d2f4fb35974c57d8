"""SQLite on a mount: the same answers, transactions of several processes at once, recovery from a crash."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from tests.mount.conftest import Both, Place
from tests.mount.programs import need, python, run

_SQL = """
PRAGMA journal_mode = {journal};
PRAGMA synchronous = FULL;
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, value REAL, data BLOB);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
INSERT INTO item SELECT i, 'name ' || i, i * 1.5, zeroblob(i % 300) FROM n;
CREATE INDEX by_name ON item (name);
BEGIN; DELETE FROM item WHERE id % 3 = 0; ROLLBACK;
BEGIN; UPDATE item SET value = -value WHERE id % 7 = 0; COMMIT;
DELETE FROM item WHERE id > 4000;
VACUUM;
PRAGMA integrity_check;
SELECT count(*), sum(value), sum(length(data)) FROM item;
"""


@pytest.mark.parametrize("journal", ["delete", "truncate", "persist", "wal"])
def test_sqlite_gives_the_same_answers(journal: str, both: Both) -> None:
    need("sqlite3")
    answers = [run("sqlite3", folder / "data.db", stdin=_SQL.format(journal=journal)) for folder in both]
    assert answers[0] == answers[1]
    assert answers[0].splitlines()[:1] == [journal]
    assert "ok" in answers[0].splitlines()
    dumps = [run("sqlite3", folder / "data.db", ".dump") for folder in both]
    assert dumps[0] == dumps[1]


_COUNT = """
import sqlite3, sys
connection = sqlite3.connect("count.db", timeout=60, isolation_level=None)
for _ in range(50):
    connection.execute("BEGIN IMMEDIATE")
    value, = connection.execute("SELECT value FROM counter").fetchone()
    connection.execute("UPDATE counter SET value = ?", (value + 1,))
    connection.execute("COMMIT")
"""


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_transactions_of_several_processes_are_all_counted(journal: str, place: Place) -> None:
    need("sqlite3")
    create = f"PRAGMA journal_mode = {journal}; CREATE TABLE counter (value); INSERT INTO counter VALUES (0);"
    run("sqlite3", "count.db", create, cwd=place.here)
    in_parallel = 'for n in 1 2 3 4; do "$0" -c "$1" & done; wait'
    run("bash", "-c", in_parallel, sys.executable, _COUNT, cwd=place.here)
    assert (
        run("sqlite3", "count.db", "SELECT value FROM counter; PRAGMA integrity_check", cwd=place.here)
        == "200\nok\n"
    )


# --- several processes, crashes --------------------------------------------------------------------------

_ACCOUNTS: Final = 50
_TOTAL: Final = _ACCOUNTS * 1000

_CREATE = """
import sqlite3, sys
accounts, journal = int(sys.argv[1]), sys.argv[2]
connection = sqlite3.connect("bank.db", isolation_level=None)
assert connection.execute(f"PRAGMA journal_mode = {journal}").fetchone() == (journal,)
connection.executescript("CREATE TABLE account (id INTEGER PRIMARY KEY, value INTEGER, filling BLOB);"
                         "CREATE TABLE done (writer INTEGER, number INTEGER, PRIMARY KEY (writer, number));")
connection.executemany("INSERT INTO account VALUES (?, 1000, zeroblob(700))", [(n,) for n in range(accounts)])
"""

# Moves money between accounts; each transaction is told of when it has been committed.
_TRANSFER = """
import random, sqlite3, sys
accounts, writer, count = map(int, sys.argv[1:])
chance = random.Random(writer)
connection = sqlite3.connect("bank.db", timeout=60, isolation_level=None)
connection.execute("PRAGMA synchronous = FULL")
connection.execute("PRAGMA cache_size = 10")  # pages reach the files before the commit
for number in range(count):
    amount = chance.randrange(100)
    connection.execute("BEGIN IMMEDIATE")
    for sign in (-1, 1):
        for account in chance.sample(range(accounts), 5):
            connection.execute("UPDATE account SET value = value + ? WHERE id = ?", (sign * amount, account))
    connection.execute("INSERT INTO done VALUES (?, ?)", (writer, number))
    connection.execute("COMMIT")
    print(number, flush=True)
    if number % 10 == writer:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
"""

# Sees none of the transactions in part, until it has seen them all.
_WATCH = """
import sqlite3, sys
total, transactions = map(int, sys.argv[1:])
connection = sqlite3.connect("bank.db", timeout=60, isolation_level=None)
before = -1
while before < transactions:
    connection.execute("BEGIN")
    now, = connection.execute("SELECT count(*) FROM done").fetchone()
    assert connection.execute("SELECT sum(value) FROM account").fetchone() == (total,)
    assert connection.execute("SELECT count(*) FROM done").fetchone() == (now,)
    connection.execute("COMMIT")
    assert now >= before
    if before == -1:
        print("watching", flush=True)
    before = now
"""


def _started(script: str, *arguments: int, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _killed(process: subprocess.Popen[str]) -> list[str]:
    """End it by SIGKILL; the lines it had written."""
    process.kill()
    assert process.stdout is not None
    lines = (
        process.stdout.read().splitlines()
    )  # communicate() would leave out what is in the buffer of a line before
    process.communicate(timeout=60)
    return lines


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_readers_and_writers_work_at_once_and_one_is_killed(journal: str, anywhere: Place) -> None:
    python(_CREATE, f"{_ACCOUNTS}", journal, cwd=anywhere.here)
    watcher = _started(_WATCH, _TOTAL, 3 * 30, cwd=anywhere.here)
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == "watching\n", watcher.communicate()
    victim = _started(_TRANSFER, _ACCOUNTS, 9, 1_000_000, cwd=anywhere.here)
    writers = [_started(_TRANSFER, _ACCOUNTS, writer, 30, cwd=anywhere.here) for writer in range(3)]
    try:
        assert victim.stdout is not None
        first = victim.stdout.readline()
        time.sleep(0.2)
        told = [first, *_killed(victim)]
        for process in (*writers, watcher):
            _, errors = process.communicate(timeout=100)
            assert process.returncode == 0, errors
    finally:
        for process in (victim, *writers, watcher):
            process.kill()
            process.communicate()
    assert_bank_is_whole(anywhere.there, {0: 30, 1: 30, 2: 30, 9: len(told)})


def assert_bank_is_whole(folder: Path, committed: dict[int, int]) -> None:
    """Nothing that was committed is missing; the transaction that was under way at a crash may be there."""
    assert run("sqlite3", "bank.db", "PRAGMA integrity_check; SELECT sum(value) FROM account", cwd=folder) == (
        f"ok\n{_TOTAL}\n"
    )
    rows = run("sqlite3", "bank.db", "SELECT writer, count(*), max(number) FROM done GROUP BY writer", cwd=folder)
    found = {int(writer): (int(count), int(last)) for writer, count, last in (r.split("|") for r in rows.split())}
    assert found.keys() == committed.keys()
    for writer, count in committed.items():
        assert found[writer] in ((count, count - 1), (count + 1, count))


_STAND_STILL = """
import sqlite3, time
connection = sqlite3.connect("bank.db", isolation_level=None)
connection.execute("PRAGMA cache_size = 5")
connection.execute("PRAGMA wal_autocheckpoint = 0")
for number in range(20):
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE account SET value = value + CASE id % 2 WHEN 0 THEN 3 ELSE -3 END")
    connection.execute("INSERT INTO done VALUES (1, ?)", (number,))
    connection.execute("COMMIT")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE account SET value = value + 1, filling = randomblob(700)")
connection.execute("DELETE FROM done")
print("in the middle", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_undoes_half_a_transaction_on_another_node(journal: str, anywhere: Place) -> None:
    need("sqlite3")
    python(_CREATE, f"{_ACCOUNTS}", journal, cwd=anywhere.here)
    written = anywhere.here / ("bank.db-wal" if journal == "wal" else "bank.db-journal")
    with _started(_STAND_STILL, cwd=anywhere.here) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "in the middle\n"
        assert written.stat().st_size > 20_000, "there is nothing to undo"
        writer.kill()
    assert_bank_is_whole(anywhere.there, {1: 20})
    assert_bank_is_whole(anywhere.here, {1: 20})
