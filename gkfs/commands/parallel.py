"""The same work for many daemons at once."""

from collections.abc import Awaitable, Callable

import trio

from gkfs.errors import GkfsError


async def for_each(indexes: range, work: Callable[[int], Awaitable[None]]) -> None:
    """Do *work* for all at once. Raises the first GkfsError, not in a group."""
    errors: list[GkfsError] = []

    async def one(index: int) -> None:
        try:
            await work(index)
        except GkfsError as error:
            errors.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for index in indexes:
            nursery.start_soon(one, index)
    if errors:
        raise errors[0]
