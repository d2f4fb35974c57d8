"""Looking for garbage in cycles less often than Python does by itself.

It looks after each 700 objects that stay, and every tenth time through ten times as many. Each new file leaves a
dozen objects in a mount, which are no garbage; cycles are rare, and small.
"""

import gc

from gkfs.limits import GARBAGE_AFTER_OBJECTS, GARBAGE_TIMES_MIDDLE, GARBAGE_TIMES_YOUNG


def look_seldom() -> None:
    """To be called once by a process that serves for long, when it has imported what it needs.

    What is there by then is never looked through again.
    """
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER_OBJECTS, GARBAGE_TIMES_YOUNG, GARBAGE_TIMES_MIDDLE)
