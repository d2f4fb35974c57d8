"""Cutting byte ranges at chunk borders."""

from hypothesis import given
from hypothesis import strategies as st

from gkfs import chunks


@given(st.integers(0, 1 << 40), st.integers(0, 5000), st.integers(1, 1000))
def test_pieces_cover_the_range_once_in_order(offset: int, length: int, size: int) -> None:
    pieces = list(chunks.pieces(offset, length, size))
    assert sum(piece.length for piece in pieces) == length
    position = offset
    for piece in pieces:
        assert piece.length >= 1
        assert piece.chunk * size + piece.offset == position
        assert piece.start == position - offset
        assert piece.offset + piece.length <= size
        position += piece.length


@given(st.integers(0, 1 << 50), st.integers(1, 1 << 20))
def test_count_is_the_last_chunk_plus_one(size: int, chunk_size: int) -> None:
    count = chunks.count(size, chunk_size)
    assert (count - 1) * chunk_size < size <= count * chunk_size or size == count == 0
