"""Parsing hostfiles."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkfs import hostfile
from gkfs.errors import ExitStatus, GkfsError
from gkfs.hostfile import DaemonAddress, Features, Hostfile, Sync

FSID = "0123456789abcdef0123456789abcdef"
HEADER = hostfile.format_header(FSID, 2)
ONE = DaemonAddress(0, "node1", "tcp://10.0.0.1:4000", "unix:///local/gkfs/socket")
TWO = DaemonAddress(1, "node2", "tcp://[fe80::1]:4001", "-")


def test_what_is_formatted_parses() -> None:
    text = HEADER + hostfile.format_daemon(TWO) + hostfile.format_daemon(ONE)
    parsed = hostfile.parse(text, "hosts")
    assert parsed == Hostfile(FSID, 2, {0: ONE, 1: TWO})
    assert parsed.complete
    assert parsed.missing == []


def test_the_last_line_of_a_daemon_holds() -> None:
    moved = ONE._replace(tcp="tcp://10.0.0.1:4999")
    text = HEADER + hostfile.format_daemon(ONE) + hostfile.format_daemon(moved)
    parsed = hostfile.parse(text, "hosts")
    assert parsed.daemons[0] == moved
    assert parsed.missing == [1]


def test_comments_and_blank_lines_are_ignored() -> None:
    assert hostfile.parse(f"# made by hand\n\n{HEADER}\n# one\n0 a tcp://a:1 -\n", "h").daemons[0].host == "a"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("node1 ofi+tcp://10.0.0.1\n", 1),
        ("gkfs-hostfile 1 fsid=xyz daemons=2\n", 1),
        (f"gkfs-hostfile 1 fsid={FSID} daemons=0\n", 1),
        (f"gkfs-hostfile 1 fsid={FSID} daemons=99999\n", 1),
        (f"gkfs-hostfile 2 fsid={FSID} daemons=2\n", 1),
        (HEADER + "0 node1\n", 2),
        (HEADER + "x node1 tcp://a:1 -\n", 2),
        (HEADER + "2 node1 tcp://a:1 -\n", 2),
        (HEADER + "0 node1 tcp://a:0 -\n", 2),
        (HEADER + "0 node1 tcp://a:65536 -\n", 2),
        (HEADER + "0 node1 udp://a:1 -\n", 2),
        (HEADER + "0 node1 - -\n", 2),
        (HEADER + "0 node1 - unix://relative\n", 2),
    ],
)
def test_a_garbled_hostfile_is_refused_naming_file_and_line(text: str, line: int) -> None:
    with pytest.raises(GkfsError, match=rf"^hostfile /tmp/hosts, line {line}: ") as caught:
        hostfile.parse(text, "/tmp/hosts")
    assert caught.value.status == ExitStatus.HOSTFILE


@given(st.text(max_size=300))
def test_no_text_raises_anything_but_gkfs_error(text: str) -> None:
    for candidate in (text, HEADER + text):
        with contextlib.suppress(GkfsError):
            hostfile.parse(candidate, "hosts")


@pytest.mark.parametrize("sync", Sync)
@pytest.mark.parametrize("checksums", [False, True])
def test_features_stand_in_the_header(checksums: bool, sync: Sync) -> None:
    features = Features(checksums, sync)
    header = hostfile.format_header(FSID, 2, features)
    assert hostfile.parse(header, "hosts").features == features
    assert (header == HEADER) == (features == Features())


@pytest.mark.parametrize("word", ["checksums=crc32", "sync=fsync", "sync=often", "colour=red"])
def test_features_that_nobody_knows_are_refused(word: str) -> None:
    with pytest.raises(GkfsError, match=f"line 1: '{word}' is nothing that this gkfs knows"):
        hostfile.parse(f"{HEADER.strip()} {word}\n", "hosts")
