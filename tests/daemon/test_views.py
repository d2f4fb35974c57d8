"""Votes on who answers for a shard: two views of one number are never decided both."""

import itertools
from pathlib import Path

import pytest

from gkfs.copy_messages import NOBODY, View
from gkfs.daemon.views import Views
from gkfs.errors import ExitStatus, GkfsError

BASE = View(7, 4, 0, 1, 2)
TAKEN_OVER = View(7, 5, 1, NOBODY, 2)  # as the mirror wants it
ALONE = View(7, 5, 0, NOBODY, 2)  # as the primary wants it


def views(folder: Path, *known: View) -> Views:
    folder.mkdir(exist_ok=True)
    made = Views(folder)
    made.begin(list(known))
    return made


def test_a_process_votes_once_for_a_number_and_remembers_it(tmp_path: Path) -> None:
    mine = views(tmp_path, BASE)
    assert mine.vote(2, BASE, TAKEN_OVER)
    assert not mine.vote(2, BASE, ALONE)
    again = Views(tmp_path)
    assert again.of(7) == BASE
    assert not again.vote(2, BASE, ALONE)
    assert again.vote(2, BASE, TAKEN_OVER)  # asked once more: the answer was lost
    assert again.voted(7, 5) == TAKEN_OVER
    assert again.voted(7, 6) is None


def test_a_mirror_that_wants_to_take_over_gives_in_to_the_primary_alone(tmp_path: Path) -> None:
    mirror = views(tmp_path, BASE)
    assert mirror.vote(1, BASE, TAKEN_OVER)
    assert not mirror.gives_in(1, BASE, TAKEN_OVER)
    assert mirror.gives_in(1, BASE, ALONE)
    assert mirror.vote(1, BASE, ALONE)
    assert not mirror.vote(1, BASE, TAKEN_OVER), "once"
    assert Views(tmp_path).voted(7, 5) == ALONE


def test_a_view_follows_the_newest_one_only(tmp_path: Path) -> None:
    mine = views(tmp_path, BASE)
    assert not mine.vote(2, BASE, TAKEN_OVER._replace(number=6))
    assert not mine.vote(3, BASE, TAKEN_OVER), "no member"
    assert mine.learn(ALONE)
    assert not mine.learn(BASE)
    assert not mine.vote(2, BASE, TAKEN_OVER)
    assert mine.of(7) == ALONE


def test_who_has_missed_a_view_learns_it_from_who_builds_on_it(tmp_path: Path) -> None:
    mine = views(tmp_path, BASE)
    assert mine.vote(2, ALONE, View(7, 6, 0, 3, 2))
    assert mine.of(7) == ALONE


ORDERS = list(itertools.permutations([(0, ALONE), (2, ALONE), (1, TAKEN_OVER), (2, TAKEN_OVER)]))


@pytest.mark.parametrize("asked", ORDERS)
def test_of_two_views_of_one_number_one_at_most_is_decided(
    asked: tuple[tuple[int, View], ...], tmp_path: Path
) -> None:
    processes = [views(tmp_path / str(index), BASE) for index in range(3)]
    votes = {ALONE: 0, TAKEN_OVER: 0}
    for process, wanted in asked:
        votes[wanted] += processes[process].vote(process, BASE, wanted)
    assert sorted(votes.values()) == [1, 2]


@pytest.mark.parametrize("text", ["", "[]", '{"known": [[1]], "voted": []}', '{"known": 5}'])
def test_a_damaged_file_is_told_and_not_ignored(text: str, tmp_path: Path) -> None:
    (tmp_path / "views.json").write_text(text)
    with pytest.raises(GkfsError, match=r"views\.json is damaged") as caught:
        Views(tmp_path)
    assert caught.value.status is ExitStatus.ROOTDIR
