"""Leader and members of a gang, in one process, over real sockets."""

import os
import resource
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gkfs.errors import GkfsError
from gkfs.gang import GANG_VARIABLE, Event, Gang, Member, derived_key
from gkfs.gang_wire import GangEnded
from gkfs.hostfile import DaemonAddress
from gkfs.tls import Certificate
from gkfs.tls import call as call_in_tls
from tests.relay import Relay


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def gang(request: pytest.FixtureRequest) -> Iterator[Gang]:
    leader = Gang(3, only_this_host=True, tls=request.param)
    yield leader
    leader.close()
    for member in joined:
        member.close()
    joined.clear()


joined: list[Member] = []


def join(gang: Gang, rank: int, environment: dict[str, str] | None = None) -> Member:
    """A member; the leader is polled meanwhile."""
    result: list[Member | Exception] = []

    def call() -> None:
        try:
            result.append(Member.join(rank, gang.environment if environment is None else environment))
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    while thread.is_alive():
        assert gang.poll(0.01) == []
    if isinstance(result[0], Exception):
        raise result[0]
    joined.append(result[0])
    return result[0]


def collect(gang: Gang, count: int) -> list[Event]:
    events: list[Event] = []
    deadline_s = time.monotonic() + 60
    while len(events) < count and time.monotonic() < deadline_s:
        events += gang.poll(0.1)
    return events


def test_messages_go_both_ways_in_order(gang: Gang) -> None:
    members = [join(gang, rank) for rank in range(3)]
    assert gang.ranks == [0, 1, 2]
    for number in range(100):
        members[1].send({"number": number, "name": b"\xff\x00"})
    events = collect(gang, 100)
    assert events == [Event(1, {"number": number, "name": b"\xff\x00"}) for number in range(100)]
    gang.broadcast({"to": "all"})
    gang.send(2, {"to": "two"})
    gang.flush(60)
    assert [member.receive(60) for member in members] == [{"to": "all"}] * 3
    assert members[2].receive(60) == {"to": "two"}
    assert members[0].receive(0.01) is None


def test_large_messages_arrive_whole(gang: Gang) -> None:
    member = join(gang, 0)
    text = os.urandom(4 << 20)
    sender = threading.Thread(target=member.send, args=({"text": text},))
    sender.start()
    assert collect(gang, 1) == [Event(0, {"text": text})]
    sender.join()
    gang.send(0, {"text": text})
    answer: list[object] = []
    receiver = threading.Thread(target=lambda: answer.append(member.receive(60)))
    receiver.start()
    gang.flush(60)
    receiver.join()
    assert answer == [{"text": text}]


def test_leader_sees_a_member_end(gang: Gang) -> None:
    join(gang, 2).close()
    assert collect(gang, 1) == [Event(2, None)]
    assert gang.ranks == []


def test_member_sees_the_leader_end() -> None:
    gang = Gang(1, only_this_host=True)
    member = join(gang, 0)
    gang.close()
    with pytest.raises(GangEnded):
        member.receive(60)
    member.close()


def test_wrong_key_is_refused(gang: Gang) -> None:
    key, places = gang.environment[GANG_VARIABLE].split(" ", 1)
    with pytest.raises(GkfsError, match="cannot be reached"):
        join(gang, 0, {GANG_VARIABLE: f"{'00' * 32} {places}"})
    assert gang.ranks == []
    assert join(gang, 0, {GANG_VARIABLE: f"{key} {places}"}).rank == 0


def test_member_refuses_a_leader_that_does_not_know_the_key() -> None:
    with socket.create_server(("127.0.0.1", 0)) as impostor:
        port = impostor.getsockname()[1]

        def answer() -> None:
            connection, _ = impostor.accept()
            with connection:
                connection.sendall(bytes(32))
                connection.recv(68)
                connection.sendall(bytes(32))

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(GkfsError, match="somebody else answers"):
            Member.join(0, {GANG_VARIABLE: f"{'11' * 32} 127.0.0.1:{port}"})
        thread.join()


def test_rank_is_taken_once_and_within_the_size(gang: Gang) -> None:
    join(gang, 0)
    for rank in (0, 3):
        with pytest.raises(GkfsError, match="cannot be reached"):
            join(gang, rank)


def test_visitor_is_no_member_but_is_heard_and_answered(gang: Gang) -> None:
    thread = threading.Thread(target=lambda: joined.append(Member.visit(gang.environment)))
    thread.start()
    while thread.is_alive():
        gang.poll(0.01)
    visitor = joined[0]
    assert gang.ranks == []
    visitor.send({"do": "stop"})
    ((rank, message),) = collect(gang, 1)
    assert message == {"do": "stop"}
    gang.send(rank, {"done": True})
    gang.flush(60)
    assert visitor.receive(60) == {"done": True}


def test_garbage_after_the_handshake_ends_that_connection_only(gang: Gang) -> None:
    bad, good = join(gang, 0), join(gang, 1)
    bad._connection.setblocking(True)
    bad._connection.sendall(b"\xff\xff\xff\xff")
    assert collect(gang, 1) == [Event(0, None)]
    good.send({"well": True})
    assert collect(gang, 1) == [Event(1, {"well": True})]


def port_of(gang: Gang) -> int:
    return int(gang.environment[GANG_VARIABLE].rpartition(":")[2])


def test_silent_stranger_is_dropped(gang: Gang, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gkfs.gang.HANDSHAKE_TIMEOUT_S", 0.1)
    with socket.create_connection(("127.0.0.1", port_of(gang))) as stranger:
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s and gang.poll(0.02) == [] and not len(gang._strangers):
            pass
        time.sleep(0.15)
        gang.poll(0.01)
        stranger.settimeout(60)
        if " tls " not in gang.environment[GANG_VARIABLE]:
            assert len(stranger.recv(100)) == 32  # the challenge
        assert stranger.recv(100) == b""


def test_a_silent_stranger_costs_no_processor_time(gang: Gang) -> None:
    with socket.create_connection(("127.0.0.1", port_of(gang))):
        gang.poll(0.1)
        turns, deadline_s = 0, time.monotonic() + 0.5
        while time.monotonic() < deadline_s:
            gang.poll(0.1)
            turns += 1
        assert turns < 10


def test_of_too_many_strangers_the_oldest_of_the_busiest_address_goes(
    gang: Gang, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gang._strangers, "_most", 20)
    honest = socket.create_connection(("127.0.0.1", port_of(gang)), source_address=("127.0.0.2", 0))
    gang.poll(0.1)
    strangers = []
    for _ in range(100):
        strangers.append(socket.create_connection(("127.0.0.1", port_of(gang))))
        gang.poll(0.01)
    assert len(gang._strangers) == 20
    addresses = {link.connection.getpeername()[0] for link in gang._strangers.all}
    assert addresses == {"127.0.0.1", "127.0.0.2"}  # who called from elsewhere is still heard
    assert join(gang, 1).rank == 1
    for one in (honest, *strangers):
        one.close()


_KNOCKS = """
import socket, sys
sys.stdin.readline()
them = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(100)]
print("all", flush=True)
sys.stdin.read()
"""
_JOINS = """
import sys
from gkfs.gang import Member
sys.stdin.readline()
member = Member.join(2)
print("joined", flush=True)
sys.stdin.read()
"""


def test_strangers_who_take_all_descriptors_keep_no_member_out(gang: Gang) -> None:
    def start(code: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", code, str(port_of(gang))]
        environment = os.environ | gang.environment | {"PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def go(process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        while not select.select([process.stdout], [], [], 0)[0]:
            gang.poll(0.01)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with start(_KNOCKS) as strangers, start(_JOINS) as member:
        free = sorted({*range(1000)} - {*map(int, os.listdir("/proc/self/fd"))})
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[30], hard))
        try:
            go(strangers)
            gang.poll(0.1)
            assert 20 < len(gang._strangers) <= 30
            go(member)
            assert gang.ranks == [2]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            strangers.kill()
            member.kill()


def test_who_listens_to_a_gang_in_tls_hears_nothing_of_it() -> None:
    heard = {}
    for tls in (False, True):
        gang = Gang(1, only_this_host=True, tls=tls)
        here = DaemonAddress(0, "here", f"tcp://127.0.0.1:{port_of(gang)}", "-")
        with Relay(here) as relay:
            place = relay.address.tcp.removeprefix("tcp://")
            environment = gang.environment[GANG_VARIABLE].rpartition(" ")[0] + f" {place}"
            member = join(gang, 0, {GANG_VARIABLE: environment})
            member.send({"path": "/secret"})
            assert collect(gang, 1) == [Event(0, {"path": "/secret"})]
            heard[tls] = bytes(relay.heard)
            joined.remove(member)
            member.close()
        gang.close()
    assert b"/secret" in heard[False]
    assert b"/secret" not in heard[True]
    assert len(heard[True]) > 500


def test_who_stands_between_with_a_certificate_of_his_own_is_refused_by_both() -> None:
    gang = Gang(1, only_this_host=True, tls=True)
    listener = socket.create_server(("127.0.0.1", 0))
    heard: list[bytes] = []

    def carry() -> None:
        accepted, _ = listener.accept()
        caller = Certificate().answer(accepted)
        called = call_in_tls(socket.create_connection(("127.0.0.1", port_of(gang))))
        for end in (caller, called):
            end.do_handshake()
        caller.send(called.recv(32))
        called.send(caller.recv(100))
        heard.append(called.recv(100))
        for end in (caller, called):
            end.close()

    thread = threading.Thread(target=carry)
    thread.start()
    place = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(GkfsError, match="cannot be reached"):
        join(gang, 0, {GANG_VARIABLE: gang.environment[GANG_VARIABLE].rpartition(" ")[0] + f" {place}"})
    thread.join()
    assert heard == [b""]
    assert gang.ranks == []
    listener.close()
    gang.close()


def test_who_does_not_speak_tls_is_refused_and_the_other_way_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gkfs.gang.HANDSHAKE_TIMEOUT_S", 0.3)
    for tls in (False, True):
        gang = Gang(1, only_this_host=True, tls=tls)
        key, *_, place = gang.environment[GANG_VARIABLE].split()
        with pytest.raises(GkfsError, match="cannot be reached"):
            join(gang, 0, {GANG_VARIABLE: f"{key} {place}" if tls else f"{key} tls {place}"})
        gang.close()


def test_members_make_the_same_key_as_the_leader_and_other_gangs_another(gang: Gang) -> None:
    other = Gang(1, only_this_host=True)
    same = {GANG_VARIABLE: gang.environment[GANG_VARIABLE].partition(" ")[0] + " elsewhere:1"}
    keys = [
        derived_key(environment, purpose)
        for environment, purpose in [
            (gang.environment, "a"),
            (same, "a"),
            (gang.environment, "b"),
            (other.environment, "a"),
        ]
    ]
    proofs = [key.proof(b"") for key in keys]
    assert proofs[0] == proofs[1]
    assert len(set(proofs)) == 3
    other.close()
