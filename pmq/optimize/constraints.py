"""What a search must obey beside its space and budget: bits that stay, layers left out, and the fewest and most bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from pmq.core.bits import FP32
from pmq.core.component import Component, Inventory
from pmq.core.errors import PmqError
from pmq.core.validation import shown
from pmq.optimize.space_file import OneChoice, Options, SpaceFile, Tie

#: how bits that stay may be written beside a number
_FP32 = ("fp32", "32", "float")
WITHIN = ("module", "block", "model")


@dataclass(frozen=True)
class Constraints:
    """What is asked of a search.

    Attributes:
        keep: pattern -> bits that every component which it matches has; 32 is FP32. A pattern is a kind of component
            (``softmax``), or matches names of components or of modules as a shell does (``blocks.0.*``, ``head``).
        exclude: patterns of what stays in FP32.
        min_bits, max_bits: of all that is chosen.
        ties: patterns of what has the same bits, with ``@module``, ``@block`` or ``@model`` behind the last: within each.

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
        """Read them as they are written on a command line: ``PATTERN=BITS``, ``PATTERN``, ``PATTERN,PATTERN@WITHIN``.

        Raises:
            PmqError: one of them is not written so.
        """
        bits = {}
        for text in keep:
            pattern, equals, number = text.rpartition("=")
            if not equals or not pattern or not (number.lower() in _FP32 or number.isdigit()):
                raise PmqError(f"{shown(text)} is not PATTERN=BITS, such as head=8 or 'blocks.0.*=fp32'")
            bits[pattern] = FP32 if number.lower() in _FP32 else int(number)
        return cls(bits, tuple(exclude), min_bits, max_bits, tuple(tuple(text.split(",")) for text in ties))

    @property
    def any(self) -> bool:
        """Whether something is asked for."""
        return self != Constraints()

    def applied(self, space: SpaceFile, inventory: Inventory) -> SpaceFile:
        """The space with what is asked for.

        Raises:
            PmqError: a pattern matches nothing, bits are none that there are, or nothing is left to choose from.
        """
        pins = dict(space.pins)
        for pattern, bits in {**dict.fromkeys(self.exclude, FP32), **self.keep}.items():
            if bits not in (*range(2, 9), FP32):
                raise PmqError(f"{shown(pattern)} cannot be kept at {bits} bits; there are 2 to 8, and 32 or fp32")
            matched = [component.name for component in inventory if _matches(pattern, component)]
            if not matched:
                raise PmqError(
                    f"{shown(pattern)} matches no component of the model; give a kind, such as {inventory.components[0].kind!r}, "
                    f"or a name, such as {inventory.names[0]!r} or {inventory.components[0].module!r}"
                )
            pins |= dict.fromkeys(matched, bits)
        changes: dict[str, Any] = {"pins": pins, "ties": [*space.ties, *map(_tie, self.ties)]}
        if self.min_bits is not None or self.max_bits is not None:
            changes |= self._bounded(space)
        return space.model_copy(update=changes)

    def _bounded(self, space: SpaceFile) -> dict[str, Any]:
        low, high = self.min_bits or 0, self.max_bits or FP32
        if low > high:
            raise PmqError(f"at least {low} and at most {high} bits leave nothing; exchange them")

        def bounded(options: Options, what: str) -> Options:
            if options.bits is None:
                return options
            left = [bits for bits in options.bits if low <= bits <= high]
            if not left:
                bits = ", ".join(map(str, options.bits))
                raise PmqError(f"search space {space.name!r} gives {what} {bits} bits, of which none is from {low} to {high}")
            return options.model_copy(update={"bits": left})

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

    def told(self) -> str:
        """What is asked for, in words."""
        parts = [f"{pattern} at {'FP32' if bits == FP32 else f'{bits} bit'}" for pattern, bits in self.keep.items()]
        parts += [f"{pattern} left out" for pattern in self.exclude]
        parts += [] if self.min_bits is None else [f"at least {self.min_bits} bit"]
        parts += [] if self.max_bits is None else [f"at most {self.max_bits} bit"]
        return ", ".join([*parts, *(f"{' and '.join(tie)} alike" for tie in self.ties)])


def _matches(pattern: str, component: Component) -> bool:
    return pattern == component.kind or any(fnmatchcase(name, pattern) for name in (component.name, component.module))


def _tie(patterns: Sequence[str]) -> Tie:
    last, _, within = patterns[-1].partition("@")
    if len(patterns) < 2 or (within and within not in WITHIN):
        raise PmqError(f"{shown(','.join(patterns))} is no tie: write PATTERN,PATTERN and @module, @block or @model behind them")
    return Tie(components=[*patterns[:-1], last], within=within or "block")
