"""The crew: movers on all nodes, led by a verb. They are processes, `gkfs mover`, started as members of a gang.

A mover that fails says why, and the first failure is that of the verb, with the node's name. A mover that ends
without a word, a launcher that does, and a signal end the work likewise.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from gkfs.commands import children, jobs, launchers
from gkfs.commands.launchers import Places
from gkfs.commands.members import Members
from gkfs.commands.signals import Signals
from gkfs.commands.staging import Result
from gkfs.commands.terminal import bytes_text
from gkfs.errors import ExitStatus, GkfsError
from gkfs.gang_wire import Message
from gkfs.limits import CREW_TURN_S, JOB_START_TIMEOUT_S

Task = dict[str, Any]
_TASKS_AHEAD = 2  # a mover has the next one when it is done with one


def places_for(hostfile: Path | None, launcher: str, hosts: str | None) -> Places:
    """Where to have movers: on the nodes of the job whose hostfile it is, or as options say. Raises GkfsError."""
    if launcher == "auto" and not hosts and hostfile is not None:
        job = jobs.find_for(hostfile)
        if job is not None:
            return job.places
    return launchers.find_places(launcher, hosts)


class Work:
    """How far a crew is; the totals are known from the begin."""

    def __init__(self, total_files: int, total_bytes: int) -> None:
        self.show: Callable[[Result], None] = lambda _: None
        self._result = Result()
        self._result.counts |= {"found_files": total_files, "found_bytes": total_bytes}
        self._result.all_found = True
        self._begun_s = time.monotonic()

    def add(self, files: int, count: int) -> None:
        """So many files and bytes more are done."""
        self._result.counts["files"] += files
        self._result.counts["bytes"] += count

    def turn(self) -> None:
        """Show it, if it is time to."""
        self.show(self._result)

    @property
    def seconds(self) -> float:
        """Since the begin."""
        return time.monotonic() - self._begun_s

    def document(self) -> dict[str, float]:
        """For JSON."""
        counts = self._result.counts
        return {"files": counts["files"], "bytes": counts["bytes"], "seconds": round(self.seconds, 3)}

    def summary(self, what: str) -> str:
        """What was done, in one line."""
        files, size = self._result.counts["files"], self._result.counts["bytes"]
        rate = bytes_text(int(size / max(self.seconds, 1e-3)))
        return f"{what} {files} files, {bytes_text(size)}, in {self.seconds:.1f} s ({rate}/s)"


class Crew:
    """*size* movers. Use as a context: at the end all are gone."""

    def __init__(self, places: Places, per_host: int, signals: Signals, *, tls: bool = False) -> None:
        self._members = Members(places, per_host, tls=tls)
        self.size = self._members.size
        self._gang = self._members.gang
        self._places = places
        self._signals = signals
        self._hosts: dict[int, str] = {}
        self.on_turn: Callable[[], None] = lambda: None  # called now and then

    def __enter__(self) -> Self:
        try:
            self._members.launch(["mover"])
            self._wait_for_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._members.dismiss()

    @property
    def hosts(self) -> list[str]:
        """Where the movers are, by rank."""
        return [host for _, host in sorted(self._hosts.items())]

    def send(self, rank: int, message: Message) -> None:
        """Tell one mover."""
        self._gang.send(rank, message)

    def broadcast(self, message: Message) -> None:
        """Tell all."""
        self._gang.broadcast(message)

    def take(self) -> Iterator[tuple[int, Message]]:
        """What movers say; waits a moment for it. Raises GkfsError when one failed or is gone, Interrupted."""
        self.on_turn()
        self._signals.pause(CREW_TURN_S, self._gang.fileno())
        for rank, message in self._gang.poll(0):
            if message is None:
                raise self._lost(rank)
            if message["is"] == "failed":
                raise self._named(rank, str(message["message"]), ExitStatus(message["status"]))
            yield rank, message

    def gather(self, answer: str, other: Callable[[int, Message], None]) -> dict[int, Message]:
        """Wait until all movers have said *answer*; *other* gets what else they say."""
        answers: dict[int, Message] = {}
        while len(answers) < self.size:
            for rank, message in self.take():
                if message["is"] == answer:
                    answers[rank] = message
                else:
                    other(rank, message)
        return answers

    def share_out(self, tasks: deque[Task], other: Callable[[int, Message], None]) -> None:
        """Have all *tasks* done by whoever is free; each is answered "done". *other* gets all that is said."""
        ahead = dict.fromkeys(range(self.size), 0)
        while tasks or any(ahead.values()):
            for rank in sorted(ahead, key=ahead.__getitem__):
                while tasks and ahead[rank] < _TASKS_AHEAD:
                    ahead[rank] += 1
                    self.send(rank, tasks.popleft())
            for rank, message in self.take():
                if message["is"] == "done":
                    ahead[rank] -= 1
                other(rank, message)

    def _wait_for_all(self) -> None:
        deadline_s = time.monotonic() + JOB_START_TIMEOUT_S
        while len(self._hosts) < self.size:
            for rank, message in self.take():
                self._hosts[rank] = str(message["host"])
            for child in self._members.started:
                if child.ended and len(self._hosts) < self.size:
                    raise child.failure()
            if time.monotonic() > deadline_s:
                missing = self.size - len(self._hosts)
                raise GkfsError(
                    f"{missing} of {self.size} movers did not start within {JOB_START_TIMEOUT_S:.0f} s",
                    ExitStatus.UNREACHABLE,
                )

    def _lost(self, rank: int) -> GkfsError:
        children.wait([child for child in self._members.started if child.name == f"member {rank}"], CREW_TURN_S)
        for child in self._members.started:
            if child.ended and child.process.returncode:
                return child.failure()
        return self._named(rank, "the mover ended without a word", ExitStatus.FAILURE)

    def _named(self, rank: int, reason: str, status: ExitStatus) -> GkfsError:
        host = f"{self._hosts.get(rank, f'mover {rank}')}: " if len(self._places.hosts) > 1 else ""
        return GkfsError(host + reason, status)
