"""git on a mount: everyday work, and the care of a repository of some size."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.mount.conftest import Both, Place
from tests.mount.programs import need, run

_COMMITS: Final = 300
_FILES: Final = 200


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """A git repository with some history, branches and a tag."""
    need("git")
    repository = tmp_path_factory.mktemp("git") / "history"
    git(repository.parent, "init", "-b", "main", str(repository))
    for number, package in enumerate(("json", "email", "logging")):
        shutil.copytree(sample / "sources" / package, repository / package)
        git(repository, "add", "-A")
        git(repository, "commit", "-m", f"Add {package}")
        for path in sorted((repository / package).glob("*.py"))[:4]:
            path.write_text(f"# change {number}\n" + path.read_text())
            git(repository, "commit", "-am", f"Change {path.name}")
    git(repository, "tag", "-a", "v1", "-m", "one")
    git(repository, "checkout", "-b", "topic", "HEAD~3")
    git(repository, "rm", "-r", "email")
    git(repository, "commit", "-m", "Remove email")
    git(repository, "checkout", "main")
    return repository


def git(folder: Path, *arguments: str) -> str:
    """Run git as nobody in particular at a fixed time, so that commits have the same ids everywhere."""
    who = {
        f"GIT_{role}_{what}": "gkfs@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    when = {"GIT_AUTHOR_DATE": "2020-02-02T02:02:02Z", "GIT_COMMITTER_DATE": "2020-02-02T02:02:02Z"}
    return run("git", "-c", "protocol.file.allow=always", *arguments, cwd=folder, env=who | when)


def test_git_clones_commits_and_collects(history: Path, both: Both) -> None:
    heads = []
    for folder in both:
        clone = folder / "clone"
        git(folder, "clone", str(history), "clone")
        assert git(clone, "status", "--porcelain") == ""
        (clone / "new").write_text("new\n")
        (clone / "json" / "decoder.py").unlink()
        git(clone, "add", "-A")
        git(clone, "commit", "-m", "Replace the decoder")
        git(clone, "merge", "-X", "theirs", "-m", "Merge topic", "origin/topic")
        git(clone, "gc", "--prune=now")
        git(clone, "fsck", "--full", "--strict")
        assert git(clone, "status", "--porcelain") == ""
        git(folder, "clone", "clone", "second")  # within one file system
        git(folder / "second", "fsck", "--full", "--strict")
        heads.append(git(folder / "second", "rev-parse", "HEAD", "HEAD^{tree}"))
    assert heads[0] == heads[1]


@pytest.fixture(scope="session")
def long_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare git repository with hundreds of commits on two branches that were merged now and then."""
    need("git")
    repository = tmp_path_factory.mktemp("git") / "long.git"
    git(repository.parent, "init", "--bare", "-b", "main", str(repository))
    run("git", "fast-import", "--quiet", cwd=repository, stdin="".join(_commits()))
    return repository


def _commits() -> Iterator[str]:
    """A stream for `git fast-import`: each commit changes some files, every 20th merges both branches."""
    for mark in range(1, _COMMITS + 1):
        branch = "main" if mark % 3 else "topic"
        text = f"commit {mark}\n"
        yield f"commit refs/heads/{branch}\nmark :{mark}\n"
        yield f"committer gkfs <gkfs@example.org> {1_500_000_000 + mark * 3600} +0000\ndata {len(text)}\n{text}"
        if mark == 3:
            yield "from :2\n"
        elif mark > 20 and mark % 20 == 0:
            yield f"merge refs/heads/{'topic' if branch == 'main' else 'main'}\n"
        for step in range(3):
            number = (mark * 7 + step * 31) % _FILES
            lines = "".join(f"line {line} of {number}, {mark // 9 * (line % 11)}\n" for line in range(number + 5))
            yield f"M 100644 inline d{number % 9}/e{number % 4}/{number}.txt\ndata {len(lines)}\n{lines}\n"


@pytest.mark.parametrize("anywhere", ["disk", 4], ids=["disk", "4-daemons"], indirect=True)
def test_git_keeps_a_long_history(long_history: Path, anywhere: Place) -> None:
    clone = anywhere.here / "clone"
    git(anywhere.here, "clone", f"file://{long_history}", "clone")
    git(clone, "switch", "-c", "topic", "origin/topic")
    (clone / "d1" / "new").write_text("new\n")
    git(clone, "add", "-A")
    git(clone, "commit", "-m", "Work on the topic")
    git(clone, "switch", "main")
    git(clone, "merge", "-X", "theirs", "-m", "Merge the topic", "topic")
    git(clone, "mv", "d2", "moved")
    git(clone, "rm", "-r", "d3")
    git(clone, "commit", "-m", "Tidy up")
    git(clone, "worktree", "add", "../elsewhere", "HEAD~30")
    head = git(clone, "rev-parse", "HEAD", "HEAD^{tree}")
    objects = git(clone, "rev-list", "--objects", "--all")
    git(clone, "repack", "-ad")
    git(clone, "gc", "--aggressive", "--prune=now")
    git(clone, "fsck", "--full", "--strict")
    for view in (anywhere.here, anywhere.there):
        # diff-files without a look at contents: inodes, sizes and times are those in the index on both nodes.
        assert git(view / "clone", "diff-files") == ""
        assert git(view / "clone", "status", "--porcelain") == ""
        assert git(view / "clone", "rev-parse", "HEAD", "HEAD^{tree}") == head
    assert sorted(git(anywhere.there / "clone", "rev-list", "--objects", "--all")) == sorted(objects)
    assert git(anywhere.here / "elsewhere", "status", "--porcelain") == ""
    git(clone, "worktree", "remove", "../elsewhere")
    assert len(list((anywhere.there / "clone" / ".git" / "objects" / "pack").glob("*.pack"))) == 1


def test_git_clones_within_the_mount_by_hard_links(long_history: Path, anywhere: Place) -> None:
    git(anywhere.here, "clone", "--mirror", f"file://{long_history}", "first.git")
    git(anywhere.here, "clone", "--local", "first.git", "second")
    packs = [path.name for path in (anywhere.here / "first.git" / "objects" / "pack").iterdir()]
    assert packs
    for name in packs:
        one, other = (
            (anywhere.here / folder / "objects" / "pack" / name) for folder in ("first.git", "second/.git")
        )
        assert one.samefile(other)
        assert one.stat().st_nlink == 2
    shutil.rmtree(anywhere.here / "first.git")
    git(anywhere.there / "second", "fsck", "--full", "--strict")
    assert git(anywhere.there / "second", "status", "--porcelain") == ""
