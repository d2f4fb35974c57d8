"""Imports point down only, and the packages of daemon and client never meet."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS: dict[str, int] = {
    "gkfs": 0,
    "gkfs.limits": 0,
    "gkfs.errors": 0,
    "gkfs.paths": 1,
    "gkfs.chunks": 1,
    "gkfs.hashing": 1,
    "gkfs.buffers": 0,
    "gkfs.durable": 0,
    "gkfs.garbage": 1,
    "gkfs.spin": 1,
    "gkfs.awake": 1,
    "gkfs.strangers": 1,
    "gkfs.metadentry": 1,
    "gkfs.hostfile": 1,
    "gkfs.keyfile": 1,
    "gkfs.tally": 1,
    "gkfs.pax": 2,
    "gkfs.container": 3,
    "gkfs.manifest": 4,
    "gkfs.distributor": 2,
    "gkfs.config": 2,
    "gkfs.messages": 2,
    "gkfs.bulk_messages": 2,
    "gkfs.peer_messages": 2,
    "gkfs.copy_messages": 2,
    "gkfs.usage_messages": 2,
    "gkfs.audit_messages": 2,
    "gkfs.changes": 2,
    "gkfs.capacity": 3,
    "gkfs.operations": 2,
    "gkfs.handshake": 3,
    "gkfs.wire": 3,
    "gkfs.channel": 3,
    "gkfs.endpoint": 4,
    "gkfs.addresses": 4,
    "gkfs.tls": 4,
    "gkfs.gang": 4,
    "gkfs.gang_wire": 3,
    "gkfs.transport": 4,
    "gkfs.daemon": 5,
    "gkfs.client": 5,
    "gkfs.commands": 6,
    "gkfs.cli": 7,
    "gkfs.__main__": 8,
}
SOURCES = {
    **{path: f"gkfs.{path.stem}" for path in (ROOT / "gkfs").glob("*.py") if path.stem != "__init__"},
    **{
        path: f"gkfs.{path.parent.name}"
        for folder in ("daemon", "client")
        for path in (ROOT / folder).rglob("*.py")
    },
    **dict.fromkeys((ROOT / "gkfs" / "commands").rglob("*.py"), "gkfs.commands"),
}
ALL = [*SOURCES, *(path for folder in ("tests", "benchmarks", "deploy") for path in (ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """The modules of ours that the file imports, as keys of LAYERS."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    found = set()
    for name in names:
        if name == "gkfs" or name.startswith("gkfs."):
            candidates = [".".join(name.split(".")[:length]) for length in (2, 1)]
            found.add(next(candidate for candidate in candidates if candidate in LAYERS))
    return found - {"gkfs"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    own = SOURCES[path]
    for name in imported(path) - {own}:
        assert LAYERS[name] <= LAYERS[own], f"{own} must not import {name}"
        if LAYERS[own] == 5:
            assert LAYERS[name] < 5, f"{own} must not import {name}"


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_has_over_400_lines_and_no_function_over_70(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 70, node.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_and_public_class_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and "messages" not in path.stem:
            assert ast.get_docstring(node), f"class {node.name}"
