"""Constraints of a search in addition to its space and budget: fixed bit-widths, excluded layers, and bounds on the bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from pmq.core.bits import FLOAT16, FP32
from pmq.core.component import Component, Inventory
from pmq.core.errors import PmqError
from pmq.core.validation import shown
from pmq.optimize.space_file import OneChoice, Options, SpaceFile, Tie

#: spellings of FP32 as a bit-width
_FP32 = ("fp32", "32", "float")
WITHIN = ("module", "block", "model")


@dataclass(frozen=True)
class Constraints:
    """Constraints that a search must obey.

    Attributes:
        keep: pattern -> bit-width of every component that it matches; 32 is FP32. A pattern is a kind of component
            (``softmax``) or a shell-style pattern of component or module names (``blocks.0.*``, ``head``).
        exclude: patterns of components that stay in FP32.
        min_bits, max_bits: bounds on all bit-widths that the search chooses.
        ties: patterns of components that share their bits; the last pattern may end in ``@module``, ``@block`` or
            ``@model``, within each of which the bits are shared.

    >>> Constraints.parse(["head=8", "blocks.0.*=fp32"]).keep
    {'head': 8, 'blocks.0.*': 32}
    """

    keep: Mapping[str, int] = field(default_factory=dict)
    exclude: Sequence[str] = ()
    min_bits: int | None = None
    max_bits: int | None = None
    ties: Sequence[Sequence[str]] = ()

    @classmethod
    def parse(
        cls,
        keep: Sequence[str] = (),
        exclude: Sequence[str] = (),
        min_bits: int | None = None,
        max_bits: int | None = None,
        ties: Sequence[str] = (),
    ) -> Constraints:
        """Parse constraints written as ``PATTERN=BITS``, ``PATTERN`` and ``PATTERN,PATTERN@WITHIN``.

        Raises:
            PmqError: one of them has another form.
        """
        bits = {}
        for text in keep:
            pattern, equals, number = text.rpartition("=")
            if not equals or not pattern or not (number.lower() in _FP32 or number.isdigit()):
                raise PmqError(f"{shown(text)} is not PATTERN=BITS; write for example head=8 or 'blocks.0.*=fp32'")
            bits[pattern] = FP32 if number.lower() in _FP32 else int(number)
        return cls(bits, tuple(exclude), min_bits, max_bits, tuple(tuple(text.split(",")) for text in ties))

    @property
    def any(self) -> bool:
        """Whether there is any constraint."""
        return self != Constraints()

    def applied(self, space: SpaceFile, inventory: Inventory) -> SpaceFile:
        """Return the space with the constraints applied.

        Raises:
            PmqError: a pattern matches no component, a bit-width does not exist, or no choices remain.
        """
        pins = dict(space.pins)
        for pattern, bits in {**dict.fromkeys(self.exclude, FP32), **self.keep}.items():
            if bits not in (*range(2, 9), FLOAT16, FP32) or (bits == FLOAT16 and space.operators is None):
                wide = ", 16" if space.operators is not None else ""
                raise PmqError(f"{shown(pattern)} cannot be kept at {bits} bits; allowed are 2 to 8{wide}, and 32 or fp32")
            matched = [component.name for component in inventory if _matches(pattern, component)]
            if not matched:
                raise PmqError(
                    f"{shown(pattern)} matches no component of the model; use a kind, such as {inventory.components[0].kind!r}, "
                    f"or a name, such as {inventory.names[0]!r} or {inventory.components[0].module!r}"
                )
            pins |= dict.fromkeys(matched, bits)
        changes: dict[str, Any] = {"pins": pins, "ties": [*space.ties, *map(_tie, self.ties)]}
        if self.min_bits is not None or self.max_bits is not None:
            changes |= self._bounded_options(space)
        return space.model_copy(update=changes)

    def _bounded_options(self, space: SpaceFile) -> dict[str, Any]:
        low, high = self.min_bits or 0, self.max_bits or FP32
        if low > high:
            raise PmqError(f"`min_bits` {low} is above `max_bits` {high}; exchange them")

        def bounded(options: Options, subject: str) -> Options:
            if options.bits is None:
                return options
            allowed_bits = [bits for bits in options.bits if low <= bits <= high]
            if not allowed_bits:
                bits = ", ".join(map(str, options.bits))
                raise PmqError(f"search space {space.name!r} gives {subject} {bits} bits; none of them is from {low} to {high}")
            return options.model_copy(update={"bits": allowed_bits})

        def allowed(one: OneChoice) -> bool:
            return low <= one.bits <= high

        modes = {name: mode for name, mode in space.modes.items() if allowed(mode.weight) and allowed(mode.input)}
        if space.modes and not modes:
            raise PmqError(
                f"search space {space.name!r} has no mode from {low} to {high} bits; its modes are {', '.join(space.modes)}"
            )
        return {
            "weight": bounded(space.weight, "weights"),
            "activation": bounded(space.activation, "activations"),
            "components": {name: bounded(options, name) for name, options in space.components.items()},
            "modes": modes,
        }

    def describe(self) -> str:
        """Describe the constraints in words."""
        parts = [f"{pattern} at {'FP32' if bits == FP32 else f'{bits} bit'}" for pattern, bits in self.keep.items()]
        parts += [f"{pattern} excluded" for pattern in self.exclude]
        parts += [] if self.min_bits is None else [f"at least {self.min_bits} bit"]
        parts += [] if self.max_bits is None else [f"at most {self.max_bits} bit"]
        return ", ".join([*parts, *(f"{' and '.join(tie)} alike" for tie in self.ties)])


def _matches(pattern: str, component: Component) -> bool:
    return pattern == component.kind or any(fnmatchcase(name, pattern) for name in (component.name, component.module))


def _tie(patterns: Sequence[str]) -> Tie:
    last, _, within = patterns[-1].partition("@")
    if len(patterns) < 2 or (within and within not in WITHIN):
        raise PmqError(f"{shown(','.join(patterns))} is not a tie; write PATTERN,PATTERN, followed by @module, @block or @model")
    return Tie(components=[*patterns[:-1], last], within=within or "block")
