"""Calls of the client that runs in this process: the handlers of `dispatch`, without messages.

What a synchronous handler did is committed, and its reply is there, when `call` returns. A coroutine runs as a
task, as one that a message started would, and completes its call when it ends. The outcomes are those that
messages bring. What messages need besides is not needed here: a request is never repeated, since no connection
can be lost, and its paths are as the client made them.
"""

import errno
import time
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

import trio

from gkfs.channel import Call
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.guards import Blocked
from gkfs.daemon.rows import Row, finished, retry
from gkfs.daemon.session import Sessions
from gkfs.daemon.store import MetadataStore
from gkfs.errors import os_error
from gkfs.messages import Buffer
from gkfs.operations import Operation, Q, R


class LocalClient:
    """The one client of this daemon that needs no socket; it is connected until `close`."""

    def __init__(
        self,
        daemon_index: int,
        dispatcher: Dispatcher,
        store: MetadataStore,
        sessions: Sessions,
        nursery: trio.Nursery,
        client_id: bytes,
        wake: Callable[[], None],
    ) -> None:
        """*nursery* is for what takes longer; *wake* is called when that has completed a call."""
        self.daemon_index = daemon_index
        self._dispatcher = dispatcher
        self._rows = dispatcher.rows
        self._store = store
        self._sessions = sessions
        self._nursery = nursery
        self._wake = wake
        self._seq = 0
        self._waiting: dict[int, Call[Any]] = {}  # by sequence number: calls that tasks work on
        self._session = sessions.open(client_id, "client")
        self._session.connection = self
        sessions.joined(self._session)

    def call(self, operation: Operation[Q, R], request: Q, timeout_s: float) -> Call[R]:
        """Execute *request*. What takes longer fails with ETIMEDOUT after *timeout_s*, when `expire` finds it.

        Data in *request* must stay unchanged until the call is done.
        """
        row = self._rows[operation.code]
        session = self._session
        self._seq = session.seq = seq = self._seq + 1
        call: Call[R] = Call(operation, seq, [], 0.0)
        self._dispatcher.requests += 1
        self._dispatcher.batches += 1
        try:
            # no await between here and the commit
            reply = row.handler(session, request)
            if type(reply) is row.reply:
                if self._store.dirty:
                    if self._store.syncs_commits:
                        self._store.commit_unsynced()
                        return self._wait_for(call, timeout_s, row, request, self._synced(reply))
                    self._store.commit()
                mirror = self._dispatcher.mirror
                if mirror is None or mirror.may_leave:
                    call.reply, call.done = reply, True  # type: ignore[assignment]  # as the row says
                    return call
                task = _as_it_is(reply)
            else:
                self._store.commit_begun()
                task = reply
        except Blocked as blocked:
            task = retry(row, session, seq, request, blocked.guard, self._store)
        except Exception as error:
            self._store.rollback()
            mirror = self._dispatcher.mirror
            if mirror is None or mirror.may_leave:
                call.finish(None, _outcome(row, error))
                return call
            task = _failing(error)  # that there is no such file is an answer, too
        return self._wait_for(call, timeout_s, row, request, task)

    def _wait_for(
        self, call: Call[R], timeout_s: float, row: Row, request: Any, task: Coroutine[Any, Any, Any]
    ) -> Call[R]:
        call.deadline_s = time.monotonic() + timeout_s
        self._waiting[call.seq] = call
        self._dispatcher.task_begins()
        self._nursery.start_soon(self._run, call, row, request, task)
        return call

    async def _synced(self, reply: Any) -> Any:
        await self._store.synced()
        return reply

    async def _run(self, call: Call[Any], row: Row, request: Any, task: Coroutine[Any, Any, Any]) -> None:
        reply = error = None
        mirror = self._dispatcher.mirror
        try:
            try:
                reply = await finished(row, self._session, call.seq, request, task, self._store)
                self._store.commit()
            except Exception as failure:
                self._store.rollback()
                reply, error = None, _outcome(row, failure)
            if mirror is not None:
                await mirror.settled()
        finally:
            self._dispatcher.task_ends()
        if self._waiting.pop(call.seq, None) is not None:  # else it took too long
            call.finish(reply, error)
            self._wake()

    def expire(self, now_s: float) -> None:
        """Fail the calls that should have been done by *now_s*, on the monotonic clock, with ETIMEDOUT."""
        for call in [call for call in self._waiting.values() if call.deadline_s < now_s]:
            self._fail(call, "did not answer in time")

    def close(self, reason: str) -> None:
        """The client is gone; calls still waiting fail with ETIMEDOUT and *reason*."""
        if self._session.connection is self:
            self._sessions.left(self._session)
        for call in list(self._waiting.values()):
            self._fail(call, reason)

    def _fail(self, call: Call[Any], reason: str) -> None:
        del self._waiting[call.seq]
        text = f"{call.operation.name}: daemon {self.daemon_index} in this process {reason}"
        call.finish(None, os_error(errno.ETIMEDOUT, text))

    def send(self, pieces: list[Buffer]) -> None:
        """Part of `session.Link`; nothing is sent to who calls."""

    def supersede(self) -> None:
        """Part of `session.Link`; nobody else has this client's id."""


async def _as_it_is(reply: Any) -> Any:
    return reply


async def _failing(error: Exception) -> NoReturn:
    raise error


def _outcome(row: Row, error: Exception) -> OSError:
    return OSError(*row.outcome(error))
