"""Dependence of costs and errors on width choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pmq.core.choice import WidthChoice, bits_of
from pmq.core.errors import PmqError
from pmq.cost.cost_model import choice_ops, component_bytes, grid_bytes

if TYPE_CHECKING:
    from pmq.optimize.space import Space

Floats = NDArray[np.float64]
Genomes = NDArray[np.int64]


@dataclass(frozen=True)
class WidthDependence:
    """How tables depend on the width decisions.

    Attributes:
        unit: ``(D,)`` the decision that sets the width of a decision's components; the decision itself if there is none.
        share: ``(D, K)`` share of the width that each choice of a width decision keeps; 1 for all other decisions.
        size, ops: ``(D, K)`` the part of a choice's bytes and bit operations that is proportional to the width.
        product_unit: ``(P,)`` the width decision of each product; -1 if there is none.
        saved: ``(D, K, W)`` milliseconds that a choice saves under each choice of its unit, where they were measured.
    """

    unit: Genomes
    share: Floats
    size: Floats
    ops: Floats
    product_unit: Genomes
    saved: Floats | None = None

    @classmethod
    def build(cls, space: Space, products: list[str], n_most: int) -> WidthDependence | None:
        """Build the dependence for a space, or return None if the space decides no widths.

        Raises:
            PmqError: the space ties components that belong to several units.
        """
        if not space.widths:
            return None
        decisions, inventory = space.decisions, space.inventory
        shape = (len(decisions), n_most)
        unit, share = np.arange(shape[0]), np.ones(shape)
        size, ops = np.zeros(shape), np.zeros(shape)
        saved = np.zeros((*shape, n_most)) if space.latency is not None else None
        where = {name: d for d, decision in enumerate(decisions) for name in decision.components}
        product_unit = np.full(len(products), -1, dtype=np.int64)
        macs = {op.name: op for op in inventory.operators}
        for options in space.widths:
            u = where[options.name]
            share[u, : len(options.options)] = [o.share for o in options.options]
            inside = {name for op in options.operators for name in macs[op].operands}
            for name in inside:
                if unit[where[name]] not in (where[name], u):
                    raise PmqError(
                        f"search space {space.name!r} ties {name!r} to other blocks; remove the tie, or search without `prune`"
                    )
                unit[where[name]] = u
            last = options.layers[-1]
            for d in {where[name] for name in inside}:
                decision = decisions[d]
                for name in decision.components:
                    for k, choice in enumerate(decision.choices_of(name)):
                        if name.removesuffix(".weight") in options.layers and name.endswith(".weight"):
                            fixed = name == f"{last}.weight" and choice.granularity in ("channel", "tensor")
                            size[d, k] += component_bytes(inventory[name], choice)
                            size[d, k] -= grid_bytes(inventory[name], choice) if fixed else 0
                        if name == inventory.source_of(last) or inventory[name].slot in ("q", "k", "v"):
                            ops[d, k] += choice_ops(inventory[name], choice)
                if saved is not None and space.latency is not None:
                    for k in range(len(decision)):
                        bits = bits_of(decision.options(k))
                        for o, option in enumerate(options.options):
                            if option.share < 1:
                                label = WidthChoice(unit=option).label
                                saved[d, k, o] = space.latency.saved_ms(options.name, label, bits)
            for name in options.operators:
                left, right = (where[n] for n in macs[name].operands)
                if left == right:
                    a, b = (decisions[left].choices_of(n) for n in macs[name].operands)
                    ops[left, : len(a)] += [macs[name].macs * x.bits * y.bits for x, y in zip(a, b, strict=True)]
                else:
                    product_unit[products.index(name)] = u
        return cls(unit, share, size, ops, product_unit, saved)

    def factors(self, genomes: Genomes) -> tuple[Floats, Floats]:
        """Return the kept shares of each decision ``(B, D)`` and of each product ``(B, P)``."""
        chosen = self.share[np.arange(genomes.shape[1]), genomes]
        decision_share = np.where(self.unit == np.arange(genomes.shape[1]), 1.0, chosen[:, self.unit])
        return decision_share, np.where(self.product_unit < 0, 1.0, chosen[:, self.product_unit])

    def saved_ms(self, genomes: Genomes) -> Floats:
        """Return the milliseconds that each decision saves ``(B, D)``."""
        assert self.saved is not None
        without_unit = self.unit == np.arange(genomes.shape[1])
        milliseconds = self.saved[np.arange(genomes.shape[1]), genomes, genomes[:, self.unit]]
        return np.where(without_unit, 0.0, milliseconds)
