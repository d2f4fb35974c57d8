"""What compiled modules must not do (docs/decisions/0016-compiled.md).

A compiled coroutine that sleeps while it handles an exception may find another one in its place later: what is
handled is kept for each thread, not for each coroutine. What it raises again is someone else's error.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_SLEEPS = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.Yield, ast.YieldFrom)
_ELSEWHERE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_BAD = """
async def f():
    try:
        await a
    except OSError:
        if await b:
            raise
"""
_GOOD = """
async def f():
    try:
        await a
    except OSError as error:
        failure = error
        later = lambda: [(yield)]
    finally:
        c()
    async with d() as e:
        e.f()
    with g:
        await h
"""


def compiled_modules() -> list[Path]:
    """The sources that setup.py has compiled."""
    found = []
    for statement in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
            folder = {"_CORE": "gkfs", "_CLIENT": "client", "_DAEMON": "daemon"}[statement.target.id]
            names = ast.literal_eval(statement.value).split()
            found += [ROOT / folder / f"{name}.py" for name in names]
    return found


def _within(nodes: list[ast.stmt]) -> Iterator[ast.AST]:
    """These and all in them that runs when they do."""
    for node in nodes:
        yield node
        children = (child for child in ast.iter_child_nodes(node) if not isinstance(child, _ELSEWHERE))
        yield from _within(list(children))  # type: ignore[arg-type]  # any node will do


def sleeps_with_exception(source: str) -> list[int]:
    """The lines where something is awaited while an exception is, or may be, handled."""
    found = []
    for node in ast.walk(ast.parse(source)):
        blocks: list[list[ast.stmt]] = []
        if isinstance(node, ast.Try):
            blocks = [*(handler.body for handler in node.handlers), node.finalbody]
        elif isinstance(node, ast.AsyncWith):  # it is left by awaiting, and by an exception if one can come
            blocks = [node.body]
        found += [each.lineno for block in blocks for each in _within(block) if isinstance(each, _SLEEPS)]
    return found


@pytest.mark.parametrize("path", compiled_modules(), ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_nothing_sleeps_while_it_handles_an_exception(path: Path) -> None:
    assert not sleeps_with_exception(path.read_text())


def test_the_rule_is_one() -> None:
    assert sleeps_with_exception(_BAD) == [6]
    assert not sleeps_with_exception(_GOOD)
    assert len(compiled_modules()) > 30
