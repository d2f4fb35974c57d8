"""What a client knows of the names of directories that it fills."""

import time

from gkfs.client.inodes import Inode
from gkfs.client.name_leases import NameLeases
from gkfs.limits import NAMES_KNOWN_MAX, NAMES_LEASE_S
from gkfs.messages import CreateReply

OWNER, PATH = 2, b"/full"


def granted(leases: NameLeases, parent: Inode, lease: int, *names: bytes) -> None:
    reply = CreateReply(b"", created=True, names_lease=lease, names=list(names))
    leases.granted(parent, OWNER, PATH, time.monotonic(), leases.generation, reply)


def test_a_name_is_known_to_be_missing_while_the_lease_lasts() -> None:
    leases, parent = NameLeases(), Inode(7, None, b"full")
    assert not leases.lack(parent, OWNER, PATH, b"new"), "nothing is known yet"
    granted(leases, parent, 5, b"here")
    assert leases.lack(parent, OWNER, PATH, b"new")
    assert not leases.lack(parent, OWNER, PATH, b"here")
    assert not leases.lack(parent, OWNER + 1, PATH, b"new"), "another daemon's names"
    assert not leases.lack(parent, OWNER, b"/moved", b"new"), "told under another path"
    assert leases.begin(parent, OWNER, b"new") == 5
    leases.comes(parent, b"linked")
    assert not leases.lack(parent, OWNER, PATH, b"new")
    assert not leases.lack(parent, OWNER, PATH, b"linked")
    time.sleep(NAMES_LEASE_S + 0.01)
    assert not leases.lack(parent, OWNER, PATH, b"late")


def test_a_reply_from_before_everything_was_forgotten_brings_nothing() -> None:
    leases, parent = NameLeases(), Inode(7, None, b"full")
    before = leases.generation
    leases.clear()
    reply = CreateReply(b"", created=True, names_lease=5, names=[b"here"])
    leases.granted(parent, OWNER, PATH, time.monotonic(), before, reply)
    assert not leases.lack(parent, OWNER, PATH, b"new")


def test_names_are_forgotten_when_there_are_too_many() -> None:
    leases, parent = NameLeases(), Inode(7, None, b"full")
    granted(leases, parent, 5, b"here")
    for number in range(NAMES_KNOWN_MAX):
        leases.begin(parent, OWNER, b"%d" % number)
    assert leases.begin(parent, OWNER, b"one more") == 5
    granted(leases, parent, 5)
    assert leases.begin(parent, OWNER, b"after it") == 0
    assert not leases.lack(parent, OWNER, PATH, b"new")
