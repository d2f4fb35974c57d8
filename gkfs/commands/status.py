"""`gkfs status`: what all daemons of a file system say of themselves."""

import time
from pathlib import Path
from typing import Any

from gkfs import capacity
from gkfs.commands import hostfiles, terminal
from gkfs.commands.launch import wait_for_daemons
from gkfs.commands.options import verb
from gkfs.commands.signals import pause_until
from gkfs.commands.terminal import bytes_text, duration_text
from gkfs.errors import ExitStatus, GkfsError
from gkfs.hostfile import NO_ADDRESS, Hostfile, Sync
from gkfs.messages import StatusReply

_EPILOG = """\b
Examples:
  gkfs status -H hosts
  gkfs status -H hosts --wait 60     also: wait until all daemons answer
  gkfs status -H hosts --json | jq '.daemons[].files'
Exit status 6 when a daemon does not answer.
"""
_HEADINGS = ("DAEMON", "HOST", "ADDRESS", "PID", "UPTIME", "FILES", "USED", "FREE", "REQUESTS")
_RIGHT = frozenset({"DAEMON", "PID", "UPTIME", "FILES", "USED", "FREE", "REQUESTS"})

Outcomes = dict[int, StatusReply | GkfsError]


@verb("status", _EPILOG, hostfile={"required": True})
def status(hostfile: Path, wait: float | None, json: bool) -> None:
    """Show all daemons of a file system; one that does not answer is a row saying so."""
    hosts, outcomes = _ask(hostfile, wait or 0.0)
    if json:
        terminal.print_json(_document(hosts, outcomes))
    else:
        _print(hosts, outcomes)
    dead = [error for error in outcomes.values() if isinstance(error, GkfsError)]
    if dead:
        raise GkfsError(
            f"{len(dead)} of {hosts.daemon_count} daemons do not answer: {dead[0]}",
            ExitStatus.UNREACHABLE if len({error.status for error in dead}) > 1 else dead[0].status,
        )


def _ask(hostfile: Path, wait_s: float) -> tuple[Hostfile, Outcomes]:
    from gkfs.commands import control  # imports trio

    deadline_s = time.monotonic() + wait_s
    wait_for_daemons(hostfile, wait_s)
    while True:
        hosts = hostfiles.read(hostfile)
        outcomes: Outcomes = dict(control.statuses(hosts))
        for index in hosts.missing:
            reason = f"daemon {index} is not in the hostfile: it has not started"
            outcomes[index] = GkfsError(reason, ExitStatus.UNREACHABLE)
        all_answer = not any(isinstance(outcome, GkfsError) for outcome in outcomes.values())
        if all_answer or not pause_until(deadline_s):
            return hosts, dict(sorted(outcomes.items()))


def _print(hosts: Hostfile, outcomes: Outcomes) -> None:
    terminal.say(f"file system {hosts.fsid}{_features(hosts)}")
    terminal.print_table(_HEADINGS, [_row(hosts, index, outcome) for index, outcome in outcomes.items()], _RIGHT)
    answers = [outcome for outcome in outcomes.values() if isinstance(outcome, StatusReply)]
    free, _ = capacity.together(answers)
    used = sum(answer.used_bytes for answer in answers)
    files = sum(answer.files for answer in answers)
    terminal.say(f"together: {files} files, {bytes_text(used)} used, {bytes_text(free)} free")
    single = [str(answer.daemon_index) for answer in answers if answer.copies < hosts.features.replicas]
    if single:
        plural = "s" if len(single) > 1 else ""
        terminal.say(f"daemon{plural} {', '.join(single)}: no other has a complete copy at the moment")
    for answer in answers:
        if answer.damaged_blocks:
            count = f"{answer.damaged_blocks} block{'' if answer.damaged_blocks == 1 else 's'}"
            terminal.say(
                f"daemon {answer.daemon_index}: {count} found damaged since its start; fsck names the files"
            )


def _features(hosts: Hostfile) -> str:
    checksums, sync, tls, replicas = hosts.features
    words = ["checksums"] if checksums else []
    words += [f"sync {sync}"] if sync is not Sync.FSYNC else []
    words += ["in TLS"] if tls else []
    words += [f"{replicas} replicas"] if replicas > 1 else []
    return "".join(f", {word}" for word in words)


def _row(hosts: Hostfile, index: int, outcome: StatusReply | GkfsError) -> list[str]:
    address = hosts.daemons.get(index)
    where = "-" if address is None else address.unix if address.tcp == NO_ADDRESS else address.tcp
    head = [str(index), address.host if address else "-", where]
    if isinstance(outcome, GkfsError):
        return [*head, "-", "not started" if address is None else "no answer", *["-"] * 4]
    uptime = duration_text(time.time() - outcome.started_ns / 1e9)
    numbers = [str(outcome.files), bytes_text(outcome.used_bytes), bytes_text(capacity.free_bytes(outcome))]
    return [*head, str(outcome.pid), uptime, *numbers, str(outcome.requests)]


def _document(hosts: Hostfile, outcomes: Outcomes) -> dict[str, Any]:
    daemons = []
    for index, outcome in outcomes.items():
        address = hosts.daemons.get(index)
        entry: dict[str, Any] = {
            "daemon": index,
            "host": address.host if address else None,
            "tcp": address.tcp if address and address.tcp != NO_ADDRESS else None,
            "unix": address.unix if address and address.unix != NO_ADDRESS else None,
        }
        if isinstance(outcome, GkfsError):
            entry |= {"alive": False, "error": str(outcome)}
        else:
            entry |= {"alive": True, **outcome._asdict()}
            del entry["daemon_index"]
        daemons.append(entry)
    answers = [outcome for outcome in outcomes.values() if isinstance(outcome, StatusReply)]
    free, total = capacity.together(answers)
    return {
        "fsid": hosts.fsid,
        "daemon_count": hosts.daemon_count,
        **hosts.features._asdict(),
        "files": sum(answer.files for answer in answers),
        "used_bytes": sum(answer.used_bytes for answer in answers),
        "free_bytes": free,
        "total_bytes": total,
        "daemons": daemons,
    }
