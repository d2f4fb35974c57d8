"""Unmodified programs give on a mount what they give on a local disk."""

import os
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest

from tests.mount import sample_tree, trees
from tests.mount.conftest import Both, Place
from tests.mount.programs import need, python, run
from tests.mount.trees import assert_same

C_SOURCES: Final = Path("/usr/share/doc/libfuse3-dev/examples")


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of all kinds of entries on the local disk, not to be changed."""
    root = tmp_path_factory.mktemp("sample") / "tree"
    sample_tree.make(root)
    return root


# --- copying ---------------------------------------------------------------------------------------------


def test_cp_a_keeps_everything(sample: Path, place: Place, tmp_path: Path) -> None:
    need("cp")
    run("cp", "-a", sample, place.here / "copy")
    assert_same(sample, place.here / "copy")
    run("cp", "-a", place.here / "copy", place.here / "within")
    assert_same(sample, place.here / "within")
    run("cp", "-a", place.there / "within", tmp_path / "back")
    assert_same(sample, tmp_path / "back")


@pytest.mark.parametrize("option", ["--sparse=always", "--sparse=never", "--reflink=auto"])
def test_cp_with_holes_copies_contents(option: str, sample: Path, place: Place) -> None:
    need("cp")
    source = sample / "contents" / "hole"
    run("cp", option, source, place.here / "in")
    run("cp", option, place.here / "in", place.here / "within")
    assert trees.digest(place.here / "within") == trees.digest(source)


def test_tar_packs_and_unpacks_everything(sample: Path, place: Place) -> None:
    need("tar")
    run("tar", "--format=posix", "-cf", place.here / "in.tar", "-C", sample, ".")
    (place.here / "unpacked").mkdir()
    run("tar", "-xpf", place.here / "in.tar", "-C", place.here / "unpacked")
    assert_same(sample, place.here / "unpacked")
    run("tar", "--compare", "-f", place.here / "in.tar", "-C", place.here / "unpacked")
    run("tar", "--format=posix", "-cf", place.here / "again.tar", "-C", place.here / "unpacked", ".")
    run("tar", "--compare", "-f", place.here / "again.tar", "-C", sample)


def test_rsync_a_transfers_everything_once(sample: Path, place: Place) -> None:
    need("rsync")
    target = f"{place.here}/copy/"
    run("rsync", "-a", "--itemize-changes", f"{sample}/", target)
    assert_same(sample, place.here / "copy")
    assert run("rsync", "-a", "--itemize-changes", f"{sample}/", target) == ""
    assert run("rsync", "-a", "--checksum", "--itemize-changes", f"{sample}/", target) == ""
    assert (
        run("rsync", "-a", "--checksum", "--itemize-changes", "--dry-run", f"{place.there}/copy/", f"{sample}/")
        == ""
    )


@pytest.mark.parametrize("options", [(), ("--inplace", "--no-whole-file")], ids=["replaced", "in-place"])
def test_rsync_brings_a_changed_file_up_to_date(options: tuple[str, ...], sample: Path, both: Both) -> None:
    need("rsync")
    name = "3500000-bytes"
    for folder in both:
        shutil.copy(sample / "contents" / name, folder)
    with open(both.local / name, "r+b") as file:
        file.seek(1_234_567)
        file.write(b"changed")
        file.truncate(3_200_000)
    run("rsync", "-a", *options, f"{both.local}/", f"{both.mounted}/")
    assert_same(both.local / name, both.mounted / name)
    assert os.listdir(both.mounted) == [name]


# --- looking ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expression",
    [
        ("-newer", "sources/json/decoder.py"),
        ("-type", "f"),
        ("-type", "l"),
        ("-type", "p,c,d"),
        ("-size", "+3k"),
        ("-type", "f", "-size", "-4096c"),
        ("-type", "f", "-empty"),
        ("-type", "d", "-links", "2"),
        ("-perm", "/7000"),
        ("-mtime", "+10000"),
        ("-user", "421"),
        ("-lname", "../*"),
        ("-type", "f", "-printf", "%p %m %s %T@ %U %G %y\\n"),
        ("-depth", "-name", "*.py"),
    ],
    ids=" ".join,
)
def test_find_finds_the_same(expression: tuple[str, ...], sample: Path, found_on: Path) -> None:
    need("find")
    expected, found = (
        sorted(run("find", ".", *expression, "-print0", cwd=tree).split("\0")) for tree in (sample, found_on)
    )
    assert expected != [""], "the expression finds nothing on the disk: it shows nothing"
    assert found == expected


@pytest.fixture(scope="session", params=[2, 4], ids=["2-daemons", "4-daemons"])
def found_on(request: pytest.FixtureRequest, sample: Path) -> Path:
    """The sample on a mount, for programs that only look."""
    copy: Path = request.getfixturevalue("shared").get(request.param).mounts[0] / "for-find"
    run("cp", "-a", sample, copy)
    return copy


def test_du_counts_apparent_bytes_and_blocks(sample: Path, both: Both) -> None:
    need("du")
    dense = sample / "sources"
    run("cp", "-a", dense, both.mounted / "tree")
    files = [path for path in dense.rglob("*") if path.is_file()]
    names = "\0".join(os.path.relpath(path, dense) for path in files)
    arguments = ("--files0-from=-", "--total")
    apparent = run("du", "--bytes", *arguments, cwd=both.mounted / "tree", stdin=names)
    assert apparent == run("du", "--bytes", *arguments, cwd=dense, stdin=names)
    blocks = run("du", "--block-size=1024", *arguments, cwd=both.mounted / "tree", stdin=names)
    expected = sum(-(-path.stat().st_size // 4096) * 4 for path in files)
    assert blocks.splitlines()[-1].split() == [str(expected), "total"]


def test_ls_lists_the_same(sample: Path, place: Place) -> None:
    need("ls", "cp")
    run("cp", "-a", sample, place.here / "tree")
    command = ("ls", "-lARn", "--time-style=full-iso", "--quoting-style=c", "kinds", "names")
    lines = [
        [line for line in run(*command, cwd=tree).splitlines() if not line.startswith("total ")]
        for tree in (sample, place.here / "tree")
    ]
    # The size of a directory means something else on every file system.
    listed = [
        [line.split()[:4] + line.split()[5:] if line[:1] == "d" else line for line in part] for part in lines
    ]
    assert listed[1] == listed[0]


# --- developing ------------------------------------------------------------------------------------------


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


def test_make_builds_the_same_programs(both: Both) -> None:
    need("make", "cc", "pkg-config")
    if not (C_SOURCES / "Makefile").exists():
        pytest.skip(f"not installed: {C_SOURCES} (libfuse3-dev, with documentation)")
    for folder in both:
        run("cp", "-r", f"{C_SOURCES}/.", folder)
        run("make", "-j4", cwd=folder)
        assert "Nothing to be done" in run("make", cwd=folder), "times are such that make builds again"
        assert "usage:" in run("./hello", "--help", cwd=folder)
    assert_same(both.local, both.mounted, times=False)
    run("touch", "hello.c", cwd=both.mounted)
    rebuilt = [line for line in run("make", cwd=both.mounted).splitlines() if "-o" in line]
    assert len(rebuilt) == 1
    assert "-o hello " in rebuilt[0]


def test_venv_runs_what_pip_installs(both: Both, tmp_path: Path) -> None:
    wheel = _wheel(tmp_path)
    installed = []
    for folder in both:
        run(sys.executable, "-m", "venv", "env", cwd=folder)
        pip = (folder / "env" / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--no-cache-dir")
        run(*pip, "install", "--no-index", wheel)
        assert run(folder / "env" / "bin" / "say") == "said\n"
        installed.append(run(*pip, "list", "--format=freeze"))
        names = sorted(os.path.relpath(path, folder) for path in folder.rglob("*"))
        installed.append("\n".join(names))
    assert installed[:2] == installed[2:]


def _wheel(folder: Path) -> Path:
    path = folder / "saying-1.0-py3-none-any.whl"
    information = "saying-1.0.dist-info"
    files = {
        "saying.py": "def main():\n    print('said')\n",
        f"{information}/METADATA": "Metadata-Version: 2.1\nName: saying\nVersion: 1.0\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{information}/entry_points.txt": "[console_scripts]\nsay = saying:main\n",
    }
    files[f"{information}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{information}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


# --- data ------------------------------------------------------------------------------------------------

_SQL = """
PRAGMA journal_mode = {journal};
PRAGMA synchronous = FULL;
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, value REAL, data BLOB);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
INSERT INTO item SELECT i, 'name ' || i, i * 1.5, zeroblob(i % 300) FROM n;
CREATE INDEX by_name ON item (name);
BEGIN; DELETE FROM item WHERE id % 3 = 0; ROLLBACK;
BEGIN; UPDATE item SET value = -value WHERE id % 7 = 0; COMMIT;
DELETE FROM item WHERE id > 4000;
VACUUM;
PRAGMA integrity_check;
SELECT count(*), sum(value), sum(length(data)) FROM item;
"""


@pytest.mark.parametrize("journal", ["delete", "truncate", "persist", "wal"])
def test_sqlite_gives_the_same_answers(journal: str, both: Both) -> None:
    need("sqlite3")
    answers = [run("sqlite3", folder / "data.db", stdin=_SQL.format(journal=journal)) for folder in both]
    assert answers[0] == answers[1]
    assert answers[0].splitlines()[:1] == [journal]
    assert "ok" in answers[0].splitlines()
    dumps = [run("sqlite3", folder / "data.db", ".dump") for folder in both]
    assert dumps[0] == dumps[1]


_COUNT = """
import sqlite3, sys
connection = sqlite3.connect("count.db", timeout=60, isolation_level=None)
for _ in range(50):
    connection.execute("BEGIN IMMEDIATE")
    value, = connection.execute("SELECT value FROM counter").fetchone()
    connection.execute("UPDATE counter SET value = ?", (value + 1,))
    connection.execute("COMMIT")
"""


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_transactions_of_several_processes_are_all_counted(journal: str, place: Place) -> None:
    need("sqlite3")
    create = f"PRAGMA journal_mode = {journal}; CREATE TABLE counter (value); INSERT INTO counter VALUES (0);"
    run("sqlite3", "count.db", create, cwd=place.here)
    in_parallel = 'for n in 1 2 3 4; do "$0" -c "$1" & done; wait'
    run("bash", "-c", in_parallel, sys.executable, _COUNT, cwd=place.here)
    assert (
        run("sqlite3", "count.db", "SELECT value FROM counter; PRAGMA integrity_check", cwd=place.here)
        == "200\nok\n"
    )


_HDF5 = """
import h5py, numpy as np
values = np.arange(600_000, dtype="f8").reshape(600, 1000)
with h5py.File("data.h5", "w") as file:
    file["contiguous"] = values
    options = {"chunks": (64, 128), "compression": "gzip", "compression_opts": 1, "shuffle": True}
    file.create_dataset("chunked", data=values, **options)
    growing = file.create_dataset("group/growing", shape=(0, 10), maxshape=(None, 10), chunks=(16, 10), dtype="i4")
    for step in range(1, 51):
        growing.resize(step * 7, axis=0)
        growing[-7:] = step
        file.flush()
    file["group"].attrs["unit"] = "m/s"
with h5py.File("data.h5", "r+") as file:
    file["chunked"][100:200, 300:310] = -1.0
    del file["contiguous"]
with h5py.File("data.h5", "r") as file:
    assert (file["chunked"][100:200, 300:310] == -1.0).all()
    assert (file["chunked"][200:, :] == values[200:, :]).all()
    assert (file["group/growing"][:, 0] == np.repeat(np.arange(1, 51), 7)).all()
    assert file["group"].attrs["unit"] == "m/s"
    print(float(file["chunked"][...].sum()))
"""


def test_h5py_writes_the_same_file(both: Both) -> None:
    pytest.importorskip("h5py")
    printed = [python(_HDF5, cwd=folder) for folder in both]
    assert printed[0] == printed[1]
    assert trees.digest(both.mounted / "data.h5") == trees.digest(both.local / "data.h5")


_FIO: Final = {
    "sequential": ("--rw=write", "--bs=1M", "--size=24M"),
    "sequential-direct": ("--rw=write", "--bs=256k", "--size=16M", "--direct=1"),
    "odd-sizes": ("--rw=write", "--bsrange=512-70k", "--bs_unaligned", "--size=8M"),
    "random": ("--rw=randwrite", "--bs=4k", "--size=8M"),
    "random-direct": ("--rw=randwrite", "--bs=4k", "--size=4M", "--direct=1"),
    "mixed-jobs": ("--rw=randrw", "--bs=8k", "--size=4M", "--numjobs=4"),
    "jobs-in-one-file": (
        "--rw=randwrite",
        "--bs=12k",
        "--size=3M",
        "--numjobs=4",
        "--filename=shared",
        "--offset_increment=3M",
    ),
    "mmap": ("--rw=randwrite", "--bs=4k", "--size=4M", "--ioengine=mmap"),
    "asynchronous": ("--rw=randwrite", "--bs=16k", "--size=8M", "--ioengine=libaio", "--iodepth=16", "--direct=1"),
}


@pytest.mark.parametrize("options", _FIO.values(), ids=_FIO.keys())
def test_fio_reads_what_it_wrote(options: tuple[str, ...], place: Place) -> None:
    need("fio")
    verify = ("--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--verify_backlog=0")
    output = run("fio", "--name=job", "--thread=0", "--output-format=terse", *verify, *options, cwd=place.here)
    assert "verify:" not in output


def test_programs_run_from_the_mount(place: Place) -> None:
    shutil.copy(sys.executable, place.here / "program")
    assert (
        run(place.here / "program", "-S", "-c", "print('runs')", env={"PYTHONHOME": sys.base_prefix}) == "runs\n"
    )
    (place.here / "script").write_text("#!/bin/sh\ncat <<END\n$0 $1\nEND\n")
    (place.here / "script").chmod(0o755)
    assert run(place.there / "script", "argument") == f"{place.there / 'script'} argument\n"
