"""Work that must be finished, whatever happens."""

import logging
from collections.abc import Awaitable, Callable

import trio

from gkfs.limits import RETRY_FIRST_S, RETRY_MAX_S

_log = logging.getLogger(__name__)


async def persist(what: str, work: Callable[[], Awaitable[bool]]) -> None:
    """Call *work* until it returns True, with growing delays; OSError counts as False and is logged as *what*.

    Cancellation ends it; what is to be done must be in the store.
    """
    delay_s = RETRY_FIRST_S
    while True:
        try:
            if await work():
                return
        except OSError as error:
            _log.warning("%s: %s", what, error.strerror)
        await trio.sleep(delay_s)
        delay_s = min(2 * delay_s, RETRY_MAX_S)
