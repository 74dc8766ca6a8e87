"""Checks of what is searched together, before anything is measured."""

from __future__ import annotations

from pmq.core import PmqError
from pmq.core.genomes import DIGITS
from pmq.optimize import Space
from pmq.pipeline.patches.kinds import check_possible
from pmq.pipeline.search.options import SearchOptions
from pmq.pipeline.subject import Subject


def check_patches(options: SearchOptions, subject: Subject, target: str | None) -> None:
    """Raise if bits of patches are not possible for a model, a target or a loss."""
    if options.loss is not None:
        raise PmqError("the bits of patches are chosen by the task's own error; search with a custom loss without `patches`")
    assert options.patches is not None
    check_possible(options.patches, subject.inventory, target)


def check_choices(space: Space) -> None:
    """Raise if a decision has more choices than a run can write down."""
    largest = max(space.decisions, key=len)
    if len(largest) > len(DIGITS):
        raise PmqError(
            f"{len(largest)} choices of {', '.join(largest.components)} together are more than the {len(DIGITS)} that a run can "
            "tell apart; allow fewer bit-widths, or untie them"
        )
