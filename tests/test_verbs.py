"""The package as a user meets it in Python."""

from __future__ import annotations

import inspect
import pydoc
import re

import pmq

VERBS = [name for name in pmq.__all__ if name[0].islower()]


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
