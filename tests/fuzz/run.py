"""Long runs of the fuzzer: `python -m tests.fuzz.run --target TARGET --frames N --seed S`.

Targets are those of `tests.fuzz.targets`, each fed with mutations of its corpus, and

    replies-to-client  replies to a pool of the client with calls in flight: each call ends, memory stays
    stranger   frames without handshake at a real daemon: nothing it stores changes
    mount      a real mount, with programs on it, whose daemons answer with anything: calls end in time; needs root
    client     frames with a handshake as a mount: it serves on, fsck finds what may be and mends it
    peer       the same as another daemon, control as `gkfs fsck`: it serves on

A run of the same seed sends the same bytes. It ends with one line of figures, or with what went wrong.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from gkfs.operations import TABLE
from tests.fuzz.client_under_fire import fuzz_client
from tests.fuzz.frames import Frames
from tests.fuzz.mount_under_fire import fuzz_mount
from tests.fuzz.targets import TARGETS, corpus
from tests.fuzz.under_fire import Fired, daemon, fire_as_peer, fire_as_stranger, plant_tree

_SLICE = 100_000  # frames between two looks at the daemon
_REPLIES = "replies-to-client"
_MOUNT = "mount"
_FRAMED = ("wire", "replies")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--target", choices=[*TARGETS, _REPLIES, _MOUNT, "stranger", "client", "peer", "control"], required=True
    )
    parser.add_argument("--frames", type=int, default=1_000_000, help="how many frames or inputs, or calls")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after so long, whatever is left")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    begun_s = time.monotonic()
    until_s = begun_s + arguments.seconds
    if arguments.target in TARGETS:
        count, facts = fuzz_decoder(arguments.target, arguments.frames, arguments.seed, until_s), ""
    elif arguments.target == _REPLIES:
        count, broken, grown_bytes = fuzz_client(arguments.frames, arguments.seed, until_s)
        facts = f", {broken} connections broken, memory grown by {grown_bytes >> 20} MiB"
    elif arguments.target == _MOUNT:
        with tempfile.TemporaryDirectory(prefix="gkfs-fuzz-") as name:
            seen = fuzz_mount(Path(name) / "gkfs", arguments.frames, arguments.seed, until_s)
        count, facts = seen.calls, f", {seen}"
    else:
        count, facts = fuzz_daemon(arguments.target, arguments.frames, arguments.seed, until_s)
    took_s = time.monotonic() - begun_s
    print(f"{arguments.target}: {count} frames in {took_s:.0f} s, {count / took_s:.0f} a second{facts}")


def fuzz_decoder(target: str, count: int, seed: int, until_s: float = float("inf")) -> int:
    """Give *target* so many inputs: mutations of its corpus, and frames where it takes some. How many it were."""
    choose = random.Random(seed)
    source = Frames(choose)
    check = TARGETS[target]
    inputs = corpus(target)
    operations = list(TABLE.values())
    done = 0
    while done < count and time.monotonic() < until_s:
        if target in _FRAMED and choose.random() < 0.9:
            pieces = []
            for _ in range(16):
                operation = choose.choice(operations)
                seq = choose.randrange(6)
                frame = source.reply(operation, seq) if choose.random() < 0.7 else source.request(seq)
                pieces.append(source.mutated(frame) if choose.random() < 0.2 else frame)
                done += 1
            data = b"".join(pieces)
        else:
            data = source.mutated(choose.choice(inputs))
            done += 1
        try:
            check(data)
        except BaseException:
            kept = Path(tempfile.gettempdir()) / f"gkfs-fuzz-{target}"
            kept.write_bytes(data)
            print(f"{target}: the input is in {kept}", file=sys.stderr)
            raise
    return done


def fuzz_daemon(
    target: str, frames: int, seed: int, until_s: float = float("inf"), slice_frames: int = _SLICE
) -> tuple[int, str]:
    """Fire *frames* at a daemon; how many it were, and what was seen. Raises AssertionError."""
    with tempfile.TemporaryDirectory(prefix="gkfs-fuzz-") as name, daemon(Path(name)) as under_fire:
        plant_tree(under_fire)
        before = under_fire.snapshot()
        sent = connections = part = peak_bytes = 0
        first_requests = under_fire.status().requests
        warm_bytes = 0
        while sent < frames and time.monotonic() < until_s:
            part += 1
            count = min(slice_frames, frames - sent)
            fired: Fired
            if target == "stranger":
                fired = fire_as_stranger(under_fire, count, seed + part)
            else:
                fired = fire_as_peer(under_fire, count, seed + part, target)
            sent += fired.frames
            connections += fired.connections
            under_fire.check()
            peak_bytes = max(peak_bytes, under_fire.rss_bytes())
            warm_bytes = warm_bytes or peak_bytes
        executed = under_fire.check().requests - first_requests
        if target == "stranger":
            assert under_fire.snapshot() == before, "strangers have changed what is stored"
        if target == "client":
            under_fire.check_faults()
        facts = f", {connections} connections, {executed} requests executed"
        return sent, f"{facts}, memory {warm_bytes >> 20} MiB after the first part, at most {peak_bytes >> 20} MiB"


if __name__ == "__main__":
    main()
