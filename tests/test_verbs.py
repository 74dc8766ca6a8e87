"""The package as a user meets it in Python."""

from __future__ import annotations

import ast
import inspect
import pydoc
import re
from pathlib import Path

import pytest

import pmq

VERBS = [name for name in pmq.__all__ if name[0].islower()]
PACKAGE = Path(str(pmq.__file__)).parent
#: most lines of a module of the pipeline, and of a function's statements there and in the verbs
MODULE, FUNCTION = 200, 60


def test_verbs_are_plain_functions_that_say_what_they_take() -> None:
    for name in VERBS:
        verb = getattr(pmq, name)
        assert inspect.isfunction(verb), name
        assert inspect.signature(verb).parameters, name
    told = ["model", "images", "budget", "space", "out", "options", "split", "run"]
    assert list(inspect.signature(pmq.search).parameters) == told


def test_help_lists_every_verb_in_a_line() -> None:
    listed = re.findall(r"^    ([a-z_]+)  +[a-z].*$", str(pmq.__doc__), re.MULTILINE)
    assert sorted(listed) == sorted(VERBS)
    assert set(VERBS) <= set(dir(pmq))
    shown = pydoc.render_doc(pmq, renderer=pydoc.plaintext)
    assert "search         find the Pareto front" in shown


@pytest.mark.parametrize("path", sorted((PACKAGE / "api").glob("[!_]*.py")), ids=lambda p: p.stem)
def test_modules_of_verbs_hold_their_verb_alone(path: Path) -> None:
    defined = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert [node.name for node in defined] == [path.stem]
    assert path.stem in VERBS


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_verbs_are_called_with_options_that_types_check(path: Path) -> None:
    verbs = {f"pmq.{verb}" for verb in VERBS}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in verbs:
            assert all(keyword.arg for keyword in node.keywords), f"line {node.lineno}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "pipeline").rglob("*.py")), ids=lambda p: p.stem)
def test_steps_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            statements = node.body[1:] if ast.get_docstring(node) else node.body
            assert not statements or (statements[-1].end_lineno or 0) - statements[0].lineno < FUNCTION, node.name
