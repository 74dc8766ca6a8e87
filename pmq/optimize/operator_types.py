"""Constraints of whole graphs: which widths of its operands an operator takes, as choices that are decided together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from pmq.core.choice import Choice
from pmq.core.component import Inventory
from pmq.core.errors import PmqError
from pmq.core.operator_widths import OperatorWidths, operands_of
from pmq.optimize.space_file import SpaceFile

#: most combinations of choices of components that operators link; without an operator that converts widths between them,
#: all layers of a model would be one decision
MOST = 1 << 14


def together(
    choices: Mapping[str, Sequence[Choice]], file: SpaceFile, inventory: Inventory
) -> dict[tuple[str, ...], list[tuple[Choice, ...]]]:
    """Return the components that are decided together, each with the combinations of choices that operators take.

    Args:
        choices: choices of each component of a whole graph.
        file: a search space with operators.
        inventory: the components.

    Raises:
        PmqError: the graph is not whole, the space has modes or ties, or no combination is left.
    """
    if not inventory.whole:
        raise PmqError(f"search space {file.name!r} has operators, but this model's tensors between operators are no components")
    if file.modes or file.ties:
        raise PmqError(f"search space {file.name!r} has operators, which excludes modes and ties; remove them")
    assert file.operators is not None
    groups = _linked(inventory, choices)
    return {tuple(names): _combinations(names, choices, file.operators, inventory, file.name) for names in groups}


def _linked(inventory: Inventory, choices: Mapping[str, Sequence[Choice]]) -> list[list[str]]:
    """Return the groups of components with several choices that products link, each in model order; the others are alone."""
    group: dict[str, list[str]] = {name: [name] for name in choices}
    for operator in inventory.operators:
        names = {name for name in operands_of(operator, inventory) if len(choices[name]) > 1}
        merged = sorted({member for name in names for member in group[name]}, key=list(choices).index)
        group |= dict.fromkeys(merged, merged)
    return [names for name, names in group.items() if name == names[0]]


def _combinations(
    names: Sequence[str], choices: Mapping[str, Sequence[Choice]], operators: OperatorWidths, inventory: Inventory, space: str
) -> list[tuple[Choice, ...]]:
    """Return the combinations of choices of linked components that their products take, in order of rising bits.

    Raises:
        PmqError: too many components are linked, or no combination is left; the message names them.
    """
    count = math.prod(len(choices[name]) for name in names)
    if count > MOST:
        raise PmqError(
            f"search space {space!r}: products link {', '.join(names[:3])} and others, with {count} combinations of bits; "
            "fix some by `pins`"
        )
    place = {name: i for i, name in enumerate(names)}
    fixed = {name: row[0] for name, row in choices.items() if len(row) == 1}
    rules = []
    for operator in inventory.operators:
        operands = operands_of(operator, inventory)
        # a component of one choice is alone, and only restricts those that it is linked to
        if not place.keys().isdisjoint(operands) and all(name in place or name in fixed for name in operands):
            rules.append((operands, operators.taken(operator)))

    def allowed(combination: Sequence[Choice]) -> bool:
        return all(
            tuple((combination[place[name]] if name in place else fixed[name]).bits for name in operands) in taken
            for operands, taken in rules
        )

    combined = [c for c in itertools.product(*(choices[name] for name in names)) if allowed(c)]
    if not combined:
        raise PmqError(
            f"search space {space!r}: no bits of {', '.join(names)} are taken by the operators that link them; relax its pins"
        )
    return sorted(combined, key=lambda combination: sum(choice.bits for choice in combination))
