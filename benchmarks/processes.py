"""Processes of the systems under test: run to their end, kept running, found, measured, ended. All bounded."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

POLL_S: Final = 0.02
COMMAND_TIMEOUT_S: Final = 120.0
END_TIMEOUT_S: Final = 10.0
SHOWN_CHARACTERS: Final = 400
_CPUCLOCK_SCHED: Final = 2  # of the kernel's clock ids: the exact time on processors, not ticks


class Failed(Exception):
    """A command of a system did not do what it should; the text says which and what it said."""


def run(
    command: Sequence[object],
    timeout_s: float = COMMAND_TIMEOUT_S,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> str:
    """Run *command* to its end, in a session of its own, so that Ctrl-C reaches only the benchmark; its stdout.

    *env* is added to the environment. Raises Failed when it fails or takes too long; then it is killed with all it
    started in its session.
    """
    words = [str(word) for word in command]
    name = " ".join(words)[:SHOWN_CHARACTERS]
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=cwd,
            env=os.environ | (env or {}),
            start_new_session=True,
        )
    except OSError as error:
        raise Failed(f"{words[0]}: {error.strerror}") from None
    try:
        out, err = process.communicate(timeout=timeout_s)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=END_TIMEOUT_S)
        if isinstance(error, subprocess.TimeoutExpired):
            raise Failed(f"{name}: not done after {timeout_s:.0f} s") from None
        raise
    if process.returncode:
        said = " ".join((err.strip() or out.strip()).split())[-SHOWN_CHARACTERS:]
        raise Failed(f"{name}: status {process.returncode}: {said}")
    return out


def start(command: Sequence[object], log: Path) -> "subprocess.Popen[bytes]":
    """Start a server that stays in the foreground; its messages go to *log*."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def wait_until(holds: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    """Raises Failed, with *what*, when it does not hold in time. An OSError counts as not yet."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(OSError):
            if holds():
                return
        if time.monotonic() >= deadline_s:
            raise Failed(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(POLL_S)


def with_argument(mark: object, program: str | None = None) -> list[int]:
    """Process ids, in any PID namespace below this one, whose command line holds *mark*; of *program* if given."""
    wanted, found = os.fsencode(str(mark)), []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted not in (folder / "cmdline").read_bytes() or int(folder.name) == os.getpid():
                continue
            if program is None or (folder / "exe").readlink().name == program:
                found.append(int(folder.name))
    return sorted(found)


def cpu_ns(pids: Iterable[int]) -> int:
    """User and system time of processes, all threads, also ended ones. A process that is gone counts 0."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime_ns(~pid << 3 | _CPUCLOCK_SCHED)
    return total


def resident_bytes(pids: Iterable[int]) -> int:
    """Memory that processes have in use."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


def end(process: "subprocess.Popen[bytes]", number: signal.Signals = signal.SIGKILL) -> None:
    """Signal it and wait; SIGKILL if the signal does not do."""
    for sent in (number, signal.SIGKILL):
        process.send_signal(sent)  # nothing if it has ended
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_TIMEOUT_S)
            return


def kill_all(mark: object) -> None:
    """SIGKILL for what still has *mark*, a folder of this benchmark alone, in its command line."""
    for pid in with_argument(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(Failed):
        wait_until(lambda: not with_argument(mark), f"the end of {with_argument(mark)}", END_TIMEOUT_S)


def is_mounted(mountpoint: Path) -> bool:
    """Whether something is mounted exactly there."""
    return any(line.split()[1] == str(mountpoint) for line in Path("/proc/mounts").read_text().splitlines())


def unmount(mountpoint: Path) -> None:
    """Unmount; by force when it does not work otherwise. Nothing happens when nothing is mounted."""
    attempts = (["umount"], ["umount"], ["umount", "-l"]) if os.geteuid() == 0 else (["fusermount3", "-uz"],)
    for attempt in attempts:
        if not is_mounted(mountpoint):
            return
        try:
            run([*attempt, mountpoint], 20.0)
        except Failed:
            time.sleep(0.2)  # what the load had open is being closed
