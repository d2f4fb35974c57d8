"""Paths and keys."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkfs import paths

names = st.binary(min_size=1, max_size=255).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
some_paths = st.lists(names, max_size=5).map(lambda parts: b"/" + b"/".join(parts))


@given(some_paths)
def test_path_of_key_is_the_inverse_of_key(path: bytes) -> None:
    assert paths.path_of_key(paths.key(path)) == path


@given(some_paths, some_paths)
def test_keys_are_unique(one: bytes, other: bytes) -> None:
    assert (paths.key(one) == paths.key(other)) == (one == other)


@given(some_paths, names)
def test_split_is_the_inverse_of_join(parent: bytes, name: bytes) -> None:
    assert paths.split(paths.join(parent, name)) == (parent, name)


@given(some_paths, some_paths)
def test_children_and_deeper_ranges_together_are_the_subtree(directory: bytes, path: bytes) -> None:
    key = paths.key(path)
    first, end = paths.children_range(directory)
    is_child = first <= key < end
    first, end = paths.deeper_range(directory)
    is_deeper = first <= key < end
    assert is_child == (path != paths.ROOT and paths.split(path)[0] == directory)
    assert is_deeper == (paths.is_below(path, directory) and not is_child)


@given(some_paths, names, some_paths)
def test_rebase_moves_a_path_below_the_target(source: bytes, name: bytes, target: bytes) -> None:
    if source != paths.ROOT and target != paths.ROOT:
        assert paths.rebase(source, source, target) == target
        assert paths.rebase(paths.join(source, name), source, target) == paths.join(target, name)


@given(some_paths)
def test_canonical_paths_pass_the_check(path: bytes) -> None:
    paths.check_path(path)


@pytest.mark.parametrize(
    "path", [b"", b"a", b"/a/", b"//", b"/a//b", b"/.", b"/a/..", b"/a\0b", b"/../etc/passwd"]
)
def test_paths_that_are_not_canonical_are_einval(path: bytes) -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        paths.check_path(path)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("path", [b"/" + b"x" * 256, b"/a" * 5000])
def test_too_long_paths_are_enametoolong(path: bytes) -> None:
    with pytest.raises(OSError, match="at most") as caught:
        paths.check_path(path)
    assert caught.value.errno == errno.ENAMETOOLONG


def test_names_of_255_bytes_pass() -> None:
    paths.check_name(b"x" * 255)
