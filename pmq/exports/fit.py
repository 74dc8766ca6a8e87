"""What a format holds of a tensor, and what becomes of tensors that it cannot hold as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pmq.core.choice import BY_TOKEN, FLOATS
from pmq.core.errors import PmqError
from pmq.exports.grid import Grid
from pmq.exports.tensor import QuantizedTensor

#: what may become of components that a format cannot express: an error, FP32, or a wider grid where the format has one
UNSUPPORTED = ("refuse", "skip", "widen")
ALL_BITS = (2, 3, 4, 5, 6, 7, 8)
#: bits of the even grid that replaces uneven levels, or one grid per head
_EIGHT = 8


@dataclass(frozen=True)
class Holds:
    """The grids that a format can hold for a tensor.

    Attributes:
        bits: bit-widths, in rising order.
        granularities: which values may share a scale, as in :class:`pmq.core.choice.Choice`.
        asymmetric: whether zero may be another integer than the middle one.
        dynamic: whether the format has grids of 8 bits that are found at run time, for each token.
        tables: whether the format has tables of free levels for weights.
    """

    bits: tuple[int, ...] = ALL_BITS
    granularities: tuple[str, ...] = ("tensor",)
    asymmetric: bool = True
    dynamic: bool = False
    tables: bool = False


@dataclass
class Fitted:
    """The grids that a file will hold, and the components that it cannot hold as they are.

    Attributes:
        grids: grid by component.
        dynamic: components whose grids are found at run time.
        reasons: why a component is not held as it is, by component.
        widened: components among them that get a wider grid.
    """

    grids: dict[str, Grid] = field(default_factory=dict)
    dynamic: set[str] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)
    widened: set[str] = field(default_factory=set)

    @property
    def left_out(self) -> list[str]:
        """Components that stay in FP32, although the allocation quantizes them."""
        return [name for name in self.reasons if name not in self.widened]


def fit(tensors: Mapping[str, QuantizedTensor], holds: Mapping[str, Holds | str], unsupported: str) -> Fitted:
    """Return the grids that a format holds.

    Args:
        tensors: quantized components by name.
        holds: what the format holds of each, or the reason for which it holds none.
        unsupported: one of :data:`UNSUPPORTED`; ``refuse`` reports the reasons as ``skip`` does.
    """
    fitted = Fitted()
    for name, tensor in tensors.items():
        held = holds[name]
        if isinstance(held, Holds) and held.dynamic and tensor.choice.quantizer == "dynamic":
            fitted.dynamic.add(name)
            continue
        reason = held if isinstance(held, str) else _why_not(tensor, held)
        if reason is None:
            grid = tensor.grid or tensor.around
            assert grid is not None
            fitted.grids[name] = grid
            continue
        fitted.reasons[name] = reason
        wider = None if isinstance(held, str) or unsupported != "widen" else _wider(tensor, held)
        if wider is not None:
            fitted.grids[name] = wider
            fitted.widened.add(name)
    return fitted


def _why_not(tensor: QuantizedTensor, holds: Holds) -> str | None:
    """Return why a format cannot hold a tensor as it is, or None if it can."""
    choice = tensor.choice
    if choice.quantizer in FLOATS:
        return "values are 16-bit floats"
    if choice.quantizer in BY_TOKEN:
        return "ranges are found at run time (the search space even has static ones)"
    if tensor.grid is None and not (tensor.around and holds.tables):
        return f"levels of quantizer {choice.quantizer!r} are not even"
    if choice.granularity not in holds.granularities:
        return f"one scale for each {choice.granularity}"
    if not (holds.asymmetric or tensor.grid is None or tensor.grid.symmetric):
        return "zero is not the middle of the grid"
    return None if choice.bits in holds.bits else f"{choice.bits} bits"


def _wider(tensor: QuantizedTensor, holds: Holds) -> Grid | None:
    """Return a grid that the format holds and that covers the tensor's levels, if there is one.

    That of a weight has all its levels, so that no value changes. That of an activation has one scale for the range of all
    levels and heads.
    """
    choice, grid = tensor.choice, tensor.grid or tensor.around
    if tensor.is_weight:
        if grid is None or choice.granularity not in holds.granularities or not (holds.asymmetric or grid.symmetric):
            return None
        wider = next((bits for bits in holds.bits if bits >= grid.bits), None)
        return None if wider is None else grid.containing(wider)
    if tensor.ends is None or not holds.asymmetric:
        return None
    even = grid is not None and choice.granularity == "tensor"
    least_bits = choice.bits if even else _EIGHT
    return Grid.covering(*tensor.ends, next((bits for bits in holds.bits if bits >= least_bits), holds.bits[-1]))


def check_unsupported(unsupported: str) -> None:
    """Raise unless ``unsupported`` is one of :data:`UNSUPPORTED`."""
    if unsupported not in UNSUPPORTED:
        raise PmqError(f"unsupported {unsupported!r} is not one of {', '.join(UNSUPPORTED)}")


def summary(reasons: Mapping[str, str], names: list[str]) -> str:
    """Return the reasons of some components with their counts, and a component of each.

    >>> summary({"a.q": "3 bits", "b.q": "3 bits"}, ["a.q", "b.q"])
    "3 bits: 2 (such as 'a.q')"
    """
    by_reason: dict[str, list[str]] = {}
    for name in names:
        by_reason.setdefault(reasons[name], []).append(name)
    parts = [f"{reason}: {len(group)} (such as {group[0]!r})" for reason, group in by_reason.items()]
    return "; ".join(parts)
