"""Failures that are not file-system outcomes, and the exit statuses they end in. Layer 0.

Outcomes of file-system calls are plain `OSError` with an errno. What a person did or set wrong is a
`GkfsError`: one line with the facts, and a documented exit status.
"""

import errno
import os
from enum import IntEnum


class ExitStatus(IntEnum):
    """Exit statuses of `gkfs` (docs/cli.md). `gkfs run` otherwise ends with its command's own status."""

    OK = 0
    FAILURE = 1  # unexpected: a bug or a broken machine; the log has the details
    USAGE = 2  # wrong option, argument or configuration key
    ROOTDIR = 3  # missing, unwritable, in use, or of another file system
    MOUNTDIR = 4  # missing, not empty, already mounted, or not a gkfs mount
    HOSTFILE = 5  # missing, garbled, or of another file system
    UNREACHABLE = 6  # a daemon does not answer, or did not start in time
    VERSION = 7  # client and daemon speak different protocol versions
    ADDRESS = 8  # the address or port to listen on cannot be had
    FUSE = 9  # /dev/fuse, fusermount3 or /etc/mtab missing or not permitted
    MENDED = 10  # `gkfs fsck`: there were faults, all are repaired
    FAULTS = 11  # `gkfs fsck`: there are faults
    INCOMPLETE = 12  # `gkfs stage-in`, `stage-out`: some entries were not moved, all others were
    DIFFERENT = 13  # `gkfs stage-in`, `stage-out` with --verify: the copies differ
    PACK = 14  # a pack is damaged, not complete, or none
    ACCESS = 15  # no key for the file system, or another than its daemons have
    RUN_FAILED = 125  # `gkfs run`: gkfs itself failed, the command did not run
    RUN_NOT_EXECUTABLE = 126
    RUN_NOT_FOUND = 127


class GkfsError(Exception):
    """Something a person can mend; `str()` is one line of facts, `status` the exit status."""

    def __init__(self, message: str, status: ExitStatus = ExitStatus.FAILURE) -> None:
        super().__init__(message)
        self.status = status


class ProtocolError(Exception):
    """The peer sent what the protocol forbids; the connection is closed, nothing was executed."""


def first_of(error: BaseException) -> BaseException:
    """The one that a group of exceptions stands for; what is no GkfsError, and so unexpected, comes first.

    For `except BaseExceptionGroup`: what is raised within `except*` is wrapped in a group again.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    return min(map(first_of, error.exceptions), key=lambda one: isinstance(one, GkfsError))


def os_error(number: int, message: str) -> OSError:
    """An OSError with *number* whose text is the errno's own plus the facts in *message*."""
    return OSError(number, f"{os.strerror(number)}: {message}")


# Outcomes that any operation may have, whatever its row in the table says.
COMMON_ERRNOS = frozenset(
    {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ETIMEDOUT, errno.EINVAL, errno.ENOMEM, errno.EMFILE}
)
