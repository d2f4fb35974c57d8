"""What tests of system calls share: errnos, descriptors for a block, reproducible data."""

import errno
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

MIB: Final = 1 << 20


@contextmanager
def fails(number: int) -> Iterator[None]:
    """The block ends in OSError with this errno."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is compared below
        yield
    found = caught.value.errno or 0
    assert found == number, f"{errno.errorcode.get(found)} instead of {errno.errorcode[number]}"


def errno_of(call: Callable[[], object]) -> int:
    """The errno that *call* fails with, 0 when it does not fail."""
    try:
        call()
    except OSError as error:
        return error.errno or 0
    return 0


@contextmanager
def opened(path: Path | bytes, flags: int, mode: int = 0o644) -> Iterator[int]:
    """A file descriptor for the block."""
    descriptor = os.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def noise(size: int, seed: int = 1) -> bytes:
    """*size* bytes that look random, the same every time."""
    return random.Random(seed).randbytes(size)
