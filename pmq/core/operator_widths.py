"""Widths that the operators of a target take where every tensor has bits, and the check of an assignment against them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from pmq.core.choice import Bits, Choice
from pmq.core.component import Inventory, Operator
from pmq.core.files import quoted, read_yaml
from pmq.core.validation import validated


class OperatorWidths(BaseModel):
    """Widths that the operators of a target take where every tensor is quantized, so that no search proposes others.

    ``layer`` lists triples of bits: of the input, the weight and the result; ``product`` those of both operands and the result;
    ``norm`` those of the input, the scale and the result; without any, norms are written out in elementwise operators and means.
    ``elementwise`` lists the widths of all other operators, whose
    operands and result have one width. Where a tensor has another width than an operator takes, the file converts it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: list[tuple[Bits, Bits, Bits]] = Field(min_length=1)
    product: list[tuple[Bits, Bits, Bits]] = Field(min_length=1)
    norm: list[tuple[Bits, Bits, Bits]] = Field(default_factory=list)
    elementwise: list[Bits] = Field(min_length=1)

    @classmethod
    def read(cls, path: Path) -> OperatorWidths:
        """Read the operators of a search space.

        Raises:
            PmqError: the file is missing, or has no valid operators.
        """
        return validated(cls, read_yaml(path, "search space").get("operators"), f"operators of search space {quoted(path)}")

    def taken(self, operator: Operator) -> set[tuple[int, int, int]]:
        """Return the widths of a product's operands and result; a result may be narrower, as it is converted then."""
        is_layer = operator.operands[0].endswith(".weight")
        widths = [(w, a, r) for a, w, r in self.layer] if is_layer else self.product
        return {(a, b, result) for a, b, most in widths for result in (4, 8, 16) if result <= most}

    def why_not_taken(self, assignment: Mapping[str, Choice], inventory: Inventory) -> str | None:
        """Say which product of a whole graph does not take the widths of an assignment, if any."""
        for operator in inventory.operators:
            bits = tuple(assignment[name].bits for name in operands_of(operator, inventory))
            if bits not in self.taken(operator):
                text = " x ".join(map(str, bits[:2]))
                return f"{operator.name!r} at {text} bits with a result of {bits[2]} bits is not among the widths it takes"
        return None


def operands_of(operator: Operator, inventory: Inventory) -> tuple[str, str, str]:
    """Return the components that a product of a whole graph reads and writes."""
    return (*operator.operands, inventory.results[operator.name])
