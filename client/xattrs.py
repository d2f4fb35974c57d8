"""Which extended attributes are stored, and for whom: as on a local disk."""

import errno
from typing import Final

from pyfuse3 import FUSEError

_FOR_ALL: Final = (b"user.",)
_KEPT: Final = (b"user.", b"trusted.")


def check_kept(name: bytes) -> None:
    """Raise FUSEError (EOPNOTSUPP, EINVAL) for one that is not stored."""
    if not name.startswith(_KEPT):
        raise FUSEError(errno.EOPNOTSUPP)
    if name in _KEPT:
        raise FUSEError(errno.EINVAL)


def is_shown(name: bytes, uid: int) -> bool:
    """Whether a listing for *uid* has it. The kernel keeps others from reading them, not from knowing of them."""
    return name.startswith(_KEPT if uid == 0 else _FOR_ALL)
