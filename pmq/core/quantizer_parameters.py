"""The parameters that each quantizer needs, and the tensors that it is for; without torch, for readers of allocations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pmq.core.choice import BY_TOKEN, FLOATS, Choice

#: powers that levels may grow by
ROOTS = (1, 2, 4)
#: the largest integer under a level, by quantizer
TOP = {"codebook": 255, "relative": 254, "palette": 254}


@dataclass(frozen=True)
class QuantizerParameters:
    """Names of a quantizer's parameters: one value per scale, one ``shared`` value, or one per level."""

    per_scale: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.per_scale, *self.shared, *self.levels)


QUANTIZER_PARAMETERS: Mapping[str, QuantizerParameters] = {
    "affine": QuantizerParameters(per_scale=("scale", "zero_point")),
    "log": QuantizerParameters(per_scale=("scale",), shared=("root",)),
    "power": QuantizerParameters(per_scale=("low", "high"), shared=("root",)),
    "codebook": QuantizerParameters(shared=("scale", "zero_point"), levels=("levels",)),
    "dynamic": QuantizerParameters(),
    "palette": QuantizerParameters(per_scale=("scale",), levels=("levels",)),
    "relative": QuantizerParameters(levels=("levels",)),
    **{name: QuantizerParameters() for name in FLOATS},
    "none": QuantizerParameters(),
}
#: most bits of a weight on an affine grid; activations may have 16
AFFINE_WEIGHT = 8
#: those that a weight may have
OF_WEIGHTS = ("affine", "palette", *FLOATS)


def why_unfit(slot: str, quantizer: str, granularity: str, bits: int = 8) -> str | None:
    """Say why a component in ``slot`` (``weight``, ``input``, ``q`` ...) cannot have a quantizer or granularity, if so.

    >>> why_unfit("weight", "log", "channel")
    "quantizer 'log' is for activations; weights take affine, palette, half, bfloat16"
    """
    if quantizer not in QUANTIZER_PARAMETERS:
        return f"quantizer {quantizer!r} is not one of {', '.join(sorted(set(QUANTIZER_PARAMETERS) - {'none'}))}"
    if quantizer == "none":
        return None
    if slot == "weight":
        if quantizer == "affine" and bits > AFFINE_WEIGHT:
            return f"{bits} bits on an affine grid; weights take up to {AFFINE_WEIGHT} bits there"
        if quantizer == "palette" and bits >= AFFINE_WEIGHT:
            return f"quantizer 'palette' with {bits} bits, which have all 255 integers that it chooses among; use affine"
        if granularity == "head":
            return "granularity 'head' is for q, k, v and softmax; weights take tensor, channel or group"
        reason = f"quantizer {quantizer!r} is for activations; weights take {', '.join(OF_WEIGHTS)}"
        return None if quantizer in OF_WEIGHTS else reason
    if quantizer == "palette":
        return "quantizer 'palette' is for weights; the free levels of activations are codebook and relative"
    if quantizer in BY_TOKEN:
        return None
    if granularity not in ("tensor", "head"):
        return f"granularity {granularity!r}; activations take tensor, and q, k, v and softmax also head"
    if granularity == "head" and slot not in ("q", "k", "softmax", "v"):
        return "granularity 'head' is for q, k, v and softmax; use tensor"
    if quantizer == "log" and slot != "softmax":
        return "quantizer 'log' is for softmax outputs, which are not negative; use affine or power"
    if quantizer == "codebook" and granularity != "tensor":
        return "quantizer 'codebook' has one table a tensor; use granularity tensor"
    return None


def why_wrong(choice: Choice, parameters: Mapping[str, Sequence[float]] | None, scales: int | None) -> str | None:
    """Say what is wrong with the parameters of a quantized activation, if anything is.

    Args:
        choice: its choice; the quantizer must exist.
        parameters: by name.
        scales: number of its scales; ``None`` if unknown.

    >>> why_wrong(Choice(bits=4), {"scale": [0.1]}, 1)
    'zero_point is missing'
    """
    needs, values = QUANTIZER_PARAMETERS[choice.quantizer], parameters or {}
    for name in needs.names:
        if name not in values:
            return f"{name} is missing"
    unknown = sorted(set(values) - set(needs.names))
    if unknown:
        return f"{unknown[0]} is no parameter of quantizer {choice.quantizer!r}, which takes {', '.join(needs.names) or 'none'}"
    scales = scales or max((len(values[name]) for name in needs.per_scale), default=1)
    expected = (
        dict.fromkeys(needs.per_scale, scales) | dict.fromkeys(needs.shared, 1) | dict.fromkeys(needs.levels, 2**choice.bits)
    )
    for name, count in expected.items():
        if len(values[name]) != count or not count:
            return f"{name} has {len(values[name])} values, not {count}"
        reason = _why_no(name, values[name], choice)
        if reason:
            return f"{name} {reason}"
    if "low" in values and any(low > high for low, high in zip(values["low"], values["high"], strict=True)):
        return "low is above high"
    return None


def _why_no(name: str, values: Sequence[float], choice: Choice) -> str | None:
    if not all(map(math.isfinite, values)):
        return "is not finite"
    if name == "scale":
        return None if min(values) > 0 else "is not positive"
    if name == "root":
        return None if set(values) <= set(ROOTS) else f"is not one of {', '.join(map(str, ROOTS))}"
    if name in ("zero_point", "levels"):
        top = TOP.get(choice.quantizer, 2**choice.bits - 1)
        if not _whole(values, top):
            return f"is no integer from 0 to {top}"
        if name == "levels" and list(values) != sorted(values):
            return "do not rise"
    return None


def _whole(values: Iterable[float], top: int) -> bool:
    return all(value == int(value) and 0 <= value <= top for value in values)
