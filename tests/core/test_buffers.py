"""Memory for large pieces: lent once at a time, used again, given back, in huge pages."""

import os
import threading
import time
from pathlib import Path

import pytest

from gkfs.buffers import address, aligned, is_aligned
from gkfs.limits import CHUNK_SIZE_BYTES, DIRECT_IO_MIN_BYTES, LARGE_BUFFERS_KEPT

MIB = 1 << 20
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_used_again_when_nothing_refers_to_it() -> None:
    view = aligned(CHUNK_SIZE_BYTES)
    first = address(view)
    part = view[100:200]
    del view
    other = aligned(CHUNK_SIZE_BYTES)
    assert not first <= address(other) < first + CHUNK_SIZE_BYTES, "a part of it is still in use"
    other[:] = b"x" * CHUNK_SIZE_BYTES
    part[:] = b"y" * 100
    assert bytes(other) == b"x" * CHUNK_SIZE_BYTES
    del part
    assert address(aligned(CHUNK_SIZE_BYTES)) == first


def test_pieces_of_all_sizes_are_aligned_and_apart() -> None:
    lengths = [
        1,
        4096,
        DIRECT_IO_MIN_BYTES - 1,
        DIRECT_IO_MIN_BYTES,
        700_001,
        CHUNK_SIZE_BYTES,
        CHUNK_SIZE_BYTES + 1,
    ]
    views = [aligned(length) for length in lengths * 5]
    for number, view in enumerate(views):
        view[:] = bytes([number]) * len(view)
    for number, view in enumerate(views):
        assert len(view) == lengths[number % len(lengths)]
        assert is_aligned(view)
        assert bytes(view) == bytes([number]) * len(view)


def test_what_is_not_needed_goes_back_to_the_system() -> None:
    before = resident_bytes()
    views = [aligned(CHUNK_SIZE_BYTES) for _ in range(8 * LARGE_BUFFERS_KEPT)]
    for view in views:
        view[:: os.sysconf("SC_PAGE_SIZE")] = bytes(CHUNK_SIZE_BYTES // os.sysconf("SC_PAGE_SIZE"))
    assert resident_bytes() - before > 7 * LARGE_BUFFERS_KEPT * MIB
    views = views[::3] + views[1::3] + views[2::3]  # in an order that leaves huge pages used in part
    while views:
        views.pop()
    del view
    assert resident_bytes() - before < 3 * LARGE_BUFFERS_KEPT * MIB


def test_threads_never_share_a_piece() -> None:
    wrong: list[int] = []
    until_s = time.monotonic() + 1.0

    def work(number: int) -> None:
        while time.monotonic() < until_s:
            views = [aligned(CHUNK_SIZE_BYTES) for _ in range(3)]
            for view in views:
                view[:8] = number.to_bytes(8)
            time.sleep(0)
            wrong.extend(number for view in views if int.from_bytes(view[:8]) != number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not _HUGE_PAGES.exists(), reason=f"no {_HUGE_PAGES}: a kernel without huge pages")
def test_it_asks_for_huge_pages() -> None:
    view = aligned(CHUNK_SIZE_BYTES)
    where = address(view)
    flags = ""
    within = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in (span := line.split()[0]) and not span.endswith(":"):
            first, last = (int(end, 16) for end in span.split("-"))
            within = first <= where < last
        elif within and span == "VmFlags:":
            flags = line
    assert " hg" in flags, flags
