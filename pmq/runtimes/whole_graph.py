"""Base of targets whose files compute with integers alone: every tensor between operators has a fixed grid of 8 or 16 bits."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

from pmq.core.choice import Assignment, Choice
from pmq.core.component import Inventory
from pmq.core.errors import PmqError
from pmq.core.operator_widths import OperatorWidths
from pmq.core.paths import spaces_folder
from pmq.runtimes.base import Target


class WholeGraph(Target):
    """Target in which every tensor has bits, and operators take the widths that the search space of its name lists."""

    whole = True
    open_batch = False
    packed_space: ClassVar[str | None] = None
    modes: ClassVar[tuple[str, ...]] = ("w8 x 8", "w4 x 8", "w8 x 16", "w4 x 16")
    #: bytes for each operator: its nodes, and the names of its tensors
    graph_bytes: ClassVar[int] = 400_000
    #: bits of tensors whose grids have to be symmetric
    symmetric: ClassVar[tuple[int, ...]] = ()

    @cached_property
    def operators(self) -> OperatorWidths:
        """The widths that operators take, from the search space of the target's name."""
        return OperatorWidths.read(spaces_folder() / f"{self.name}.yaml")

    @property
    def norms_written_out(self) -> bool:
        """Whether the tensors inside of norms have bits, as the target has no norm in integers."""
        return not self.operators.norm

    def check(self, assignment: Assignment, inventory: Inventory) -> None:
        """Raise PmqError unless every component has a grid that the target has, and every operator takes its operands."""
        if all(choice.is_fp32 for choice in assignment.values()):
            return
        if not inventory.whole:
            raise PmqError(
                f"target {self.name!r} needs bits for every tensor between operators; search with `target={self.name}`"
            )
        if inventory.norms_written_out != self.norms_written_out:
            raise PmqError(f"target {self.name!r} has other tensors inside of norms; search with `target={self.name}`")
        for component in inventory:
            choice = assignment[component.name]
            weight = component.role == "weight"
            bits, granularity = ((4, 8), "channel") if weight else ((8, 16), "tensor")
            if (choice.bits, choice.quantizer, choice.granularity) not in [(b, "affine", granularity) for b in bits]:
                raise PmqError(
                    f"target {self.name!r} cannot run {component.name!r} at {choice.label} bits per {choice.granularity}; "
                    f"it takes {bits[0]} or {bits[1]} bits per {granularity}; search with `target={self.name}`"
                )
            if not choice.symmetric and (weight or choice.bits in self.symmetric):
                raise PmqError(f"target {self.name!r} cannot run {component.name!r}, whose grid is not symmetric")
        reason = self.operators.why_not_taken(assignment, inventory)
        if reason:
            raise PmqError(f"target {self.name!r} cannot run this allocation: {reason}; search with `target={self.name}`")

    def executes(self, choice: Choice) -> bool:
        """Return whether a tensor can have this choice."""
        return choice.quantizer == "affine" and choice.bits in (8, 16)
