"""Searches that solve and evolve little: all of their steps, but few of each.

``python -m tests.shallow ARGS`` is ``pmq ARGS`` with such searches.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from pmq.optimize import SpaceFile, read_space


def few_bits(*bits: int, of: str = "default") -> SpaceFile:
    """A space that ships, with these bits alone."""
    space = read_space(of)
    kept = {role: getattr(space, role).model_copy(update={"bits": list(bits)}) for role in ("weight", "activation")}
    return space.model_copy(update={"name": "few", **kept})


def search_little(patch: pytest.MonkeyPatch) -> None:
    """Make searches of this process take seconds, until the patch is undone."""
    from pmq.optimize import candidates, confirm
    from pmq.pipeline import metric_benchmark
    from pmq.pipeline.search import explore, finalists

    for module in (metric_benchmark, explore):
        patch.setattr(module, "nsga2", partial(module.nsga2, generations=3))
    patch.setattr(explore, "SWEEP", 3)
    patch.setattr(finalists, "FINALISTS", 2)
    patch.setattr(candidates, "POWERS", candidates.POWERS[:2])
    patch.setattr(confirm, "DRAWS", 2)


@contextmanager
def shallow_searches() -> Iterator[None]:
    """Within it searches take seconds. What they find is within the budget, and far from the best front there is."""
    with pytest.MonkeyPatch.context() as patch:
        search_little(patch)
        yield


if __name__ == "__main__":
    from pmq import cli

    search_little(pytest.MonkeyPatch())
    sys.argv[0] = "pmq"
    cli.main()
