"""Mistakes that are put into the product, in the process of a test only, for the simulation to find."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio

from gkfs.daemon.attributes import Attributes
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.name_leases import NameLeases
from gkfs.daemon.rename_steps import RenameSteps
from gkfs.daemon.session import Session, Sessions
from gkfs.daemon.writers import Writers
from gkfs.messages import ReserveReply, ReserveRequest

_BETWEEN_S = 0.0005


def dedup_off(patch: pytest.MonkeyPatch) -> None:
    """No reply is kept for who repeats a request."""
    patch.setattr(Session, "remember", lambda *arguments: None)
    patch.setattr(Session, "store_replies", lambda *arguments: None)
    patch.setattr(Sessions, "answer", lambda *arguments: None)


def intent_not_written(patch: pytest.MonkeyPatch) -> None:
    """A rename over two daemons leaves no note of what it is about to do."""
    patch.setattr(RenameSteps, "note", lambda steps, plan, state: steps.store.commit())


def all_write_behind(patch: pytest.MonkeyPatch) -> None:
    """Each writer of a file is told that it is the only one."""
    patch.setattr(Writers, "declare", lambda *arguments, **options: True)


def append_reserved_after_await(patch: pytest.MonkeyPatch) -> None:
    """The end of a file is read, then others run, then it is moved."""
    reserve = Attributes.reserve

    def late(
        attributes: Attributes, session: Session, request: ReserveRequest
    ) -> Coroutine[Any, Any, ReserveReply]:
        offset = reserve_offset(attributes, request)

        async def after() -> ReserveReply:
            await trio.sleep(_BETWEEN_S)
            return reserve(attributes, session, request)._replace(offset=offset)

        return after()

    def reserve_offset(attributes: Attributes, request: ReserveRequest) -> int:
        return attributes._records.for_data(request.path, request.fid)[1].size

    patch.setattr(Attributes, "reserve", late)


def commit_after_reply(patch: pytest.MonkeyPatch) -> None:
    """A batch is answered before it is committed."""
    finish = Dispatcher._finish_batch

    def too_soon(
        dispatcher: Dispatcher, connection: Any, messages: Any, replies: list[Any], answered: list[int]
    ) -> None:
        connection.send(replies)
        finish(dispatcher, connection, messages, [], answered)

    patch.setattr(Dispatcher, "_finish_batch", too_soon)


def names_lease_not_awaited(patch: pytest.MonkeyPatch) -> None:
    """A name appears in a directory although another client takes it for known what is there."""
    patch.setattr(NameLeases, "_wait_until", lambda leases, end_s, directory: None)


PLANTED: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    bug.__name__: bug
    for bug in (
        dedup_off,
        intent_not_written,
        all_write_behind,
        append_reserved_after_await,
        commit_after_reply,
        names_lease_not_awaited,
    )
}
