"""Unmodified programs give on a mount what they give on a local disk."""

import os
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest

from tests.mount.conftest import Both, Place
from tests.mount.programs import need, run
from tests.mount.trees import assert_same

C_SOURCES: Final = Path("/usr/share/doc/libfuse3-dev/examples")


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


@pytest.mark.parametrize("file_system", [2], ids=["2-daemons"], indirect=True)
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
