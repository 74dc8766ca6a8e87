"""The search space: the choices of each component, components that share one decision, and pinned components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from pmq.core.bits import FP32
from pmq.core.choice import BY_TOKEN, FLOAT, Assignment, Choice, Decisions, WidthChoice, bits_of
from pmq.core.component import Component, Inventory
from pmq.core.errors import PmqError
from pmq.core.pruning import WidthOptions
from pmq.core.quantizer_parameters import why_unfit
from pmq.core.validation import validated
from pmq.cost.latency import LatencyTable
from pmq.optimize.operator_types import together
from pmq.optimize.space_file import KINDS, OneChoice, Options, SpaceFile

IMAGE_BITS = 8


@dataclass(frozen=True)
class Decision:
    """Components that are decided together, and the choices of each, in order of rising bits.

    ``modes`` names the choices of a layer's weight and input where the space has modes.
    """

    components: tuple[str, ...]
    choices: tuple[tuple[Choice | WidthChoice, ...], ...]
    modes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.choices[0])

    def options(self, k: int) -> Decisions:
        """Return the choice of each component under option ``k``."""
        return {name: choices[k] for name, choices in zip(self.components, self.choices, strict=True)}

    def choices_of(self, component: str) -> tuple[Choice, ...]:
        """Return the choices of one component; for a width unit there are none."""
        choices = self.choices[self.components.index(component)]
        return tuple(choice for choice in choices if isinstance(choice, Choice))


class Space:
    """A search space applied to a model's components.

    Attributes:
        decisions: the decisions that the search makes, in model order.
        latency: measured milliseconds of the choices, if there are any.
        widths: units whose widths the search decides; their decisions come last.
    """

    def __init__(
        self,
        file: SpaceFile,
        inventory: Inventory,
        estimator: str = "mse",
        latency: LatencyTable | None = None,
        widths: Sequence[WidthOptions] = (),
    ) -> None:
        self.latency, self.widths = latency, tuple(widths)
        self.file, self.inventory, self.estimator = file, inventory, estimator
        self.name = file.name
        self._check_patterns()
        self.decisions = self._decide()
        self.decisions += [Decision((w.name,), (tuple(WidthChoice(unit=unit) for unit in w.options),)) for w in widths]

    @property
    def choices(self) -> dict[str, tuple[Choice, ...]]:
        """Component -> its choices."""
        choices = {name: decision.choices_of(name) for decision in self.decisions for name in decision.components}
        return {name: choices[name] for name in self.inventory.names}

    @property
    def modes(self) -> dict[str, list[tuple[Choice, Choice]]]:
        """Layer -> the pairs of choices that its weight and its input can have together."""
        choices = self.choices
        layers = [c.module for c in self.inventory if c.slot == "weight"]
        decided = {d.components for d in self.decisions}
        pairs = {}
        for layer in layers:
            pair = (f"{layer}.weight", self.inventory.source_of(layer))
            if pair in decided:
                pairs[layer] = list(zip(*(choices[name] for name in pair), strict=True))
            else:
                pairs[layer] = [(w, a) for w in choices[pair[0]] for a in choices[pair[1]]]
        return pairs

    def uniform(self, weight_bits: int, activation_bits: int) -> Assignment:
        """Give every component the same bits, with the quantizers of this space.

        Pinned components keep their bits, and the image has at least 8 bits, which it has to begin with. If the space has a mode
        of these bits, the layers that have the mode take it and the other layers take their last option.
        """

        def default_bits(component: Component) -> int:
            if component.role == "weight":
                return weight_bits
            return max(IMAGE_BITS, activation_bits) if component.kind == "image" else activation_bits

        in_mode: Assignment = {}
        for name, mode in self.file.modes.items():
            if not in_mode and (mode.weight.bits, mode.input.bits) == (weight_bits, activation_bits):
                assignment, layers = self.assignment(self.uniform_modes()[name]), [d for d in self.decisions if d.modes]
                in_mode = {component: assignment[component] for d in layers for component in d.components}
        rest = {c.name: self._uniform_choice(c, self._pin(c) or default_bits(c)) for c in self.inventory if c.name not in in_mode}
        return {name: (in_mode | rest)[name] for name in self.inventory.names}

    def has_bits(self, assignment: Assignment) -> bool:
        """Return whether every component may have its bits in ``assignment``, whichever its quantizer is."""
        return all(assignment[name].bits in {choice.bits for choice in choices} for name, choices in self.choices.items())

    def assignment(self, genome: Any) -> Assignment:
        """Convert a choice index per decision to a choice per component, without widths."""
        return bits_of(self.decided(genome))

    def decided(self, genome: Any) -> Decisions:
        """Convert a choice index per decision to a choice per component and a width per unit."""
        picked = {
            name: options[int(index)]
            for decision, index in zip(self.decisions, genome, strict=True)
            for name, options in zip(decision.components, decision.choices, strict=True)
        }
        return {name: picked[name] for name in (*self.inventory.names, *(w.name for w in self.widths))}

    def genome(self, assignment: Decisions) -> list[int] | None:
        """Convert an allocation to a choice index per decision, or return None if the space does not contain the allocation.

        Units that the allocation does not name keep their full width.
        """
        genome = []
        assignment = {w.name: WidthChoice(unit=w.options[-1]) for w in self.widths} | dict(assignment)
        for decision in self.decisions:
            target = tuple(assignment[name] for name in decision.components)
            columns = list(zip(*decision.choices, strict=True))
            if target not in columns:
                return None
            genome.append(columns.index(target))
        return genome

    def _options(self, component: Component) -> Options:
        general = self.file.weight if component.role == "weight" else self.file.activation
        merged = general.model_dump(exclude_none=True)
        for pattern, options in self.file.components.items():
            if _matches(pattern, component):
                refined = options.model_dump(exclude_none=True)
                if "granularity" in refined:
                    merged.pop("group_size", None)  # only groups have a size
                if "quantizer" in refined:
                    merged.pop("uniform", None)  # which stands beside the quantizer that it differs from
                merged |= refined
        return Options(**merged)

    def _pin(self, component: Component) -> int | None:
        pins = [bits for pattern, bits in self.file.pins.items() if _matches(pattern, component)]
        return pins[-1] if pins else None

    def _uniform_choice(self, component: Component, bits: int) -> Choice:
        return self._choice(component, bits, self._options(component).uniform_quantizer(bits))

    def _choice(self, component: Component, bits: int, quantizer: str | None = None) -> Choice:
        options = self._options(component)
        quantizer = quantizer or options.quantizers(bits)[0]
        if quantizer == "relative" and component.slot == "input" and len(self.inventory[f"{component.module}.weight"].shape) > 2:
            quantizer = options.uniform_quantizer(bits) if options.uniform else "affine"  # inputs of convolutions have no tokens
        granularity = "token" if quantizer in BY_TOKEN else options.granularity or "tensor"
        context = f"search space {self.name!r}, {component.name!r}"
        if bits == FP32:
            return FLOAT
        _check_fits(component, quantizer, granularity, context, bits)
        fields = {"bits": bits, "quantizer": quantizer, "granularity": granularity, "group_size": options.group_size}
        fields |= {"symmetric": options.is_symmetric(bits), "estimator": self.estimator}
        return validated(Choice, fields, context)

    def _mode_decision(self, weight: Component, source: Component) -> Decision:
        """Return the decision over a layer's modes, in order of rising bits."""
        context = f"search space {self.name!r}, {weight.module!r}"
        pins = [self._pin(weight), self._pin(source)]
        pairs: list[tuple[str, Choice, Choice]] = []
        for name, mode in self.file.modes.items():
            inside = mode.layers is None or any(_matches(p, weight) for p in mode.layers)
            if not inside or any(_matches(p, weight) for p in mode.excepted):
                continue
            both = [
                self._mode_choice(c, entry, f"{context}, mode {name!r}")
                for c, entry in ((weight, mode.weight), (source, mode.input))
            ]
            if all(pin is None or choice.bits == pin for pin, choice in zip(pins, both, strict=True)):
                pairs.append((name, both[0], both[1]))
        if not pairs:
            raise PmqError(f"{context} has no mode left; list it under 'layers' of a mode, or relax its pins")
        pairs.sort(key=lambda pair: (pair[1].bits * pair[2].bits, pair[1].bits))
        names, weights, inputs = zip(*pairs, strict=True)
        return Decision((weight.name, source.name), (weights, inputs), names)

    def _mode_choice(self, component: Component, entry: OneChoice, context: str) -> Choice:
        if entry.bits == FP32:
            return FLOAT
        quantizer = entry.quantizer or "affine"
        granularity = "token" if quantizer in BY_TOKEN else entry.granularity or "tensor"
        _check_fits(component, quantizer, granularity, context, entry.bits)
        fields = entry.model_dump() | {"quantizer": quantizer, "granularity": granularity, "estimator": self.estimator}
        return validated(Choice, fields, context)

    def uniform_modes(self) -> dict[str, list[int]]:
        """Return for each mode the genome in which layers with the mode take it and other decisions take their last option."""
        return {
            name: [d.modes.index(name) if name in d.modes else len(d) - 1 for d in self.decisions] for name in self.file.modes
        }

    def _component_choices(self, component: Component) -> tuple[Choice, ...]:
        pin = self._pin(component)
        options = self._options(component)
        if pin is not None:
            return (self._choice(component, pin),)
        if not options.bits:
            raise PmqError(f"search space {self.name!r} gives {component.name!r} no bits; set them under {component.role}")
        choices = [self._choice(component, b, q) for b in sorted(set(options.bits)) for q in options.quantizers(b)]
        return tuple(dict.fromkeys(choices))

    def _decide(self) -> list[Decision]:
        if self.file.operators is not None:
            rows = together({c.name: self._component_choices(c) for c in self.inventory}, self.file, self.inventory)
            return [Decision(names, tuple(zip(*row, strict=True))) for names, row in rows.items()]
        mode_decisions = self._mode_decisions()
        inside = {name for decision in mode_decisions.values() for name in decision.components}
        choices = {c.name: self._component_choices(c) for c in self.inventory if c.name not in inside}
        groups: dict[str, list[str]] = {name: [name] for name in choices}
        for tie in self.file.ties:
            tied: dict[str, list[str]] = {}
            for component in self.inventory:
                if any(_matches(pattern, component) for pattern in tie.components):
                    if component.name in inside:
                        raise PmqError(
                            f"search space {self.name!r} ties {component.name!r}, whose layer has modes; remove the tie"
                        )
                    place = {"module": component.module, "block": str(component.stage), "model": ""}[tie.within]
                    tied.setdefault(place, []).append(component.name)
            for names in tied.values():
                merged = list(dict.fromkeys(n for name in names for n in groups[name]))
                for name in merged:
                    groups[name] = merged
        if self.file.shared:
            self._share(choices, groups)
        decisions = []
        for component in self.inventory:
            name = component.name
            if name in inside:
                decisions += [mode_decisions[name]] if name in mode_decisions else []
                continue
            group = groups[name]
            if name != group[0]:
                continue
            bits = [[c.bits for c in choices[member]] for member in group]
            if any(b != bits[0] for b in bits):
                other = group[next(i for i, b in enumerate(bits) if b != bits[0])]
                raise PmqError(
                    f"search space {self.name!r} ties {name!r} to {other!r}, but their bits differ; give both the same bits"
                )
            decisions.append(Decision(tuple(group), tuple(choices[member] for member in group)))
        return decisions

    def _share(self, choices: Mapping[str, Sequence[Choice]], groups: dict[str, list[str]]) -> None:
        """Tie components that are the same tensor, read by several operators, if they have the same bits to choose from."""
        for component in self.inventory:
            first, name = component.same, component.name
            if not first or first not in choices or name not in choices:
                continue
            if [c.bits for c in choices[first]] == [c.bits for c in choices[name]]:
                merged = list(dict.fromkeys([*groups[first], *groups[name]]))
                for member in merged:
                    groups[member] = merged

    def _mode_decisions(self) -> dict[str, Decision]:
        """Return the decision over each layer's modes, keyed by the layer's first component."""
        if not self.file.modes:
            return {}
        pairs: dict[str, list[Component]] = {}
        for component in self.inventory:
            if component.slot in ("weight", "input"):
                pairs.setdefault(component.module, []).append(component)
        decisions = [self._mode_decision(*sorted(pair, key=lambda c: c.slot, reverse=True)) for pair in pairs.values()]
        return {min(d.components, key=self.inventory.names.index): d for d in decisions}

    def _check_patterns(self) -> None:
        file = self.file
        for pattern in (*file.components, *file.pins, *(p for tie in file.ties for p in tie.components)):
            if pattern not in KINDS and not any(_matches(pattern, c) for c in self.inventory):
                raise PmqError(
                    f"search space {self.name!r}: {pattern!r} is neither a kind of component ({', '.join(KINDS)}) nor a "
                    f"pattern that matches a component name, such as {self.inventory.names[0]!r}"
                )


def _check_fits(component: Component, quantizer: str, granularity: str, context: str, bits: int) -> None:
    """Raise if a component cannot have a quantizer, granularity or bit-width."""
    reason = why_unfit(component.slot, quantizer, granularity, bits)
    if reason:
        raise PmqError(f"{context}: {reason}")


def _matches(pattern: str, component: Component) -> bool:
    return pattern == component.kind or fnmatchcase(component.name, pattern)
