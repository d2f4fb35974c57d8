"""What a daemon remembers of its clients, and for how long."""

import math
from pathlib import Path

import trio
import trio.testing

from gkfs.daemon import keys
from gkfs.daemon.session import Session, Sessions
from gkfs.daemon.store import MetadataStore
from gkfs.limits import HOLDER_GONE_S, IN_FLIGHT_MAX

CLIENT, OTHER = b"c" * 16, b"o" * 16


def execute(store: MetadataStore, session: Session, *seqs: int) -> None:
    """A batch, as the dispatcher has it."""
    for seq in seqs:
        session.remember(seq, [b"reply %d" % seq])
    session.store_replies(store, list(seqs))
    store.commit()


def test_replies_of_earlier_batches_outlive_the_daemon(tmp_path: Path) -> None:
    async def main() -> None:
        store = MetadataStore(tmp_path / "metadata")
        session = Sessions(store).open(CLIENT, "client")
        execute(store, session, 1, 2)
        execute(store, session, 3)
        again = Sessions(store).open(CLIENT, "client")
        assert again.replies == {seq: [b"reply %d" % seq] for seq in (1, 2, 3)}
        store.close()

    trio.run(main)


def test_as_many_replies_are_stored_as_may_be_under_way_and_few_more(tmp_path: Path) -> None:
    async def main() -> None:
        store = MetadataStore(tmp_path / "metadata")
        sessions = Sessions(store)
        seq = 0
        for _ in range(3):  # starts of the daemon
            for count in [1, 5, 64] * 60:
                execute(store, sessions.open(CLIENT, "client"), *range(seq + 1, seq + 1 + count))
                seq += count
            sessions = Sessions(store)
            latest = range(seq - IN_FLIGHT_MAX + 1, seq + 1)
            assert set(latest) <= set(sessions.open(CLIENT, "client").replies)
        stored = sum(len(page) for page in store.pages(*keys.all_replies(CLIENT)))
        assert stored <= IN_FLIGHT_MAX + 1
        store.close()

    trio.run(main)


def test_client_whose_connection_broke_may_have_files_open(tmp_path: Path) -> None:
    async def main() -> None:
        store = MetadataStore(tmp_path / "metadata")
        sessions = Sessions(store)
        session = sessions.open(CLIENT, "client")
        sessions.joined(session)
        sessions.left(session)
        assert not sessions.has_other_client_away(OTHER)  # it has closed: it is gone
        assert sessions.all_there_since_s() == -math.inf
        sessions.joined(session)
        sessions.left(session, broke=True)
        assert sessions.has_other_client_away(OTHER)
        assert not sessions.has_other_client_away(CLIENT)
        clock.jump(1)
        assert sessions.all_there_since_s() == math.inf
        back_s = trio.current_time()
        sessions.joined(session)
        assert not sessions.has_other_client_away(OTHER)
        clock.jump(1)
        assert sessions.all_there_since_s() == back_s
        sessions.left(session, broke=True)
        clock.jump(HOLDER_GONE_S + 1)
        assert not sessions.has_other_client_away(OTHER)
        assert sessions.all_there_since_s() == back_s
        store.close()

    clock = trio.testing.MockClock()
    trio.run(main, clock=clock)
