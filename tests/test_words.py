"""The names and the prose use the field's words: what must not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "pmq").rglob("*.py"))
#: whole identifiers that say nothing of what a thing is, or stand for a word that the field has
NAMES = {
    *("found", "told", "said", "given", "wanted", "own", "how", "anew"),
    *("Kept", "Cut", "Cuts", "Judge", "Trials", "Effort", "Contest", "Sequence", "Wishes", "Fresh", "Mapped"),
    *("is_float", "carry_out", "carries_out", "realise", "realised", "filled", "planned", "judge", "trials", "race", "effort"),
    *("contest", "compensated", "concentrate", "spent", "dearest", "cheapest", "priced", "corrected", "plausible"),
}
#: phrases of prose, in code, documentation and pages
PHRASES = re.compile(
    r"\b(carr(y|ies|ied|ying) (it |them |an allocation |allocations )?out|realis(e|es|ed|ing)|anew|dearest|"
    r"gone on with|goes on with|told by|made good of|have it again|come of it|what is left of)\b",
    re.IGNORECASE,
)
PROSE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PROSE += sorted(path for path in (ROOT / "docs").rglob("*.md") if "results" not in path.parts)
PROSE += sorted(path for suffix in ("*.html", "*.js", "*.yaml") for path in (ROOT / "pmq").rglob(suffix))


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names that a module binds: of variables, parameters, attributes, functions and classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_say_what_things_are(path: Path) -> None:
    bound = [f"{path.name}:{line}: {name}" for line, name in names(ast.parse(path.read_text())) if name.strip("_") in NAMES]
    assert not bound


@pytest.mark.parametrize("path", [*MODULES, *PROSE], ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_uses_the_words_of_the_field(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert not [f"{path.name}:{n}: {line.strip()}" for n, line in enumerate(lines, 1) if PHRASES.search(line)]


def test_the_check_sees_what_it_looks_for() -> None:
    assert {name for _, name in names(ast.parse("def f(told):\n    x.found = given = 1"))} == {"f", "told", "found", "given"}
    assert PHRASES.search("An allocation carried out anew.")
