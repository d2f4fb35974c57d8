"""Another user of this machine."""

import os
import traceback
from collections.abc import Callable
from typing import Final

OTHER_USER: Final = 20002


def begin_as_other_user(act: Callable[[], int]) -> Callable[[], int]:
    """Have *act* done in a process of OTHER_USER without any rights; what waits for it and tells its result.

    That is what *act* returns (0 to 254); 255 when it raises.
    """
    if not (pid := os.fork()):
        status = 255
        try:
            os.setgroups([])
            os.setgid(OTHER_USER)
            os.setuid(OTHER_USER)
            status = act()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def as_other_user(act: Callable[[], int]) -> int:
    """What *act* returns there."""
    return begin_as_other_user(act)()
