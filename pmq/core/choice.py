"""The decisions of an allocation: choices of bits for components, and widths for MLPs and attentions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, WithJsonSchema, model_validator

from pmq.core.bits import FLOAT16, FP32, BitWidth
from pmq.core.pruning import PrunedUnit

Granularity = Literal["tensor", "channel", "group", "head", "token"]
#: groups are padded to their size, so it is limited
GroupSize = Annotated[int, Field(ge=1, le=1 << 16)]
Bits = Annotated[int, AfterValidator(BitWidth), WithJsonSchema({"type": "integer", "enum": list(BitWidth.ALLOWED)})]


#: quantizers that are floating-point formats
FLOATS = ("half", "bfloat16")
#: quantizers that scale each token of an activation at run time
BY_TOKEN = ("dynamic", "relative")


class Choice(BaseModel):
    """A representation of one component: bit-width, quantizer and granularity.

    ``granularity`` says which values share a scale. For a weight ``(O, I)``: ``tensor`` one scale, ``channel`` one per
    output ``(O, 1)``, ``group`` one per ``group_size`` neighbouring inputs ``(O, I / group_size)``. For an activation:
    ``tensor``; ``head``, one per attention head, which costs a runtime nothing where heads are multiplied one by one;
    or ``token``: the quantizers ``dynamic`` and ``relative``, whose scales are found when the token is there and not kept.

    >>> Choice(bits=4).label, Choice(bits=32, quantizer="none").label
    ('4', 'fp32')
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bits: Bits
    quantizer: str = "affine"
    granularity: Granularity = "tensor"
    group_size: GroupSize | None = None
    symmetric: bool = False
    estimator: str = "mse"

    @model_validator(mode="after")
    def _consistent(self) -> Choice:
        if (self.granularity == "group") != (self.group_size is not None):
            raise ValueError(f"group_size={self.group_size} with granularity={self.granularity!r}: only groups have a size")
        if (self.quantizer == "none") != (self.bits == FP32):
            raise ValueError(f"quantizer={self.quantizer!r} with {self.bits} bits: 'none' and 32 bits (FP32) go together")
        if self.quantizer in FLOATS and self.bits != FLOAT16:
            raise ValueError(f"quantizer={self.quantizer!r} with {self.bits} bits: {' and '.join(FLOATS)} go with 16 bits")
        if self.bits == FLOAT16 and self.quantizer not in (*FLOATS, "affine"):
            raise ValueError(f"quantizer={self.quantizer!r} with 16 bits: these are for {', '.join(FLOATS)} and affine")
        if (self.quantizer in BY_TOKEN) != (self.granularity == "token"):
            raise ValueError(
                f"quantizer={self.quantizer!r} with granularity={self.granularity!r}: {' and '.join(BY_TOKEN)} go with 'token'"
            )
        return self

    @property
    def is_fp32(self) -> bool:
        """Whether the component stays in FP32."""
        return self.bits == FP32

    @property
    def label(self) -> str:
        """The bit-width, and the quantizer where it is not affine."""
        text = str(BitWidth(self.bits))
        return text if self.quantizer in ("affine", "none") else f"{text}-{self.quantizer}"

    def scales(self, shape: tuple[int, ...], heads: int = 1) -> int:
        """Count the scales of a tensor whose first axis is the channel and whose other axes are flattened."""
        if self.granularity == "tensor":
            return 1
        if self.granularity == "head":
            return heads
        if self.granularity == "token":
            return shape[0]
        if self.granularity == "channel":
            return shape[0]
        inputs = 1
        for n in shape[1:]:
            inputs *= n
        assert self.group_size is not None
        return int(shape[0] * -(-inputs // self.group_size))

    def key(self) -> str:
        """A stable text for journals and caches."""
        return self.model_dump_json()


class ComponentChoice(Choice):
    """A choice with, for an activation, the calibrated parameters of its quantizer.

    ``affine`` has ``scale`` and ``zero_point``, ``log`` ``scale`` and ``root``, ``power`` ``low``, ``high`` and ``root``,
    ``codebook`` its integer ``levels`` with ``scale`` and ``zero_point``, ``relative`` its integer ``levels``; a
    value for each scale.
    """

    parameters: dict[str, list[FiniteFloat]] | None = None

    @property
    def choice(self) -> Choice:
        """The choice without parameters."""
        return Choice(**self.model_dump(exclude={"parameters"}))


class WidthChoice(BaseModel):
    """The channels that an MLP or an attention keeps: decided beside bits, under the name of that MLP or attention.

    It stands beside :class:`Choice` wherever a decision is either: both are :class:`Option`.

    >>> WidthChoice(unit=PrunedUnit(kind="hidden", size=8, kept="0-5")).label
    '6/8'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    unit: PrunedUnit

    @model_validator(mode="before")
    @classmethod
    def _without_bits(cls, data: Any) -> Any:
        """Accept files of earlier versions, in which a width had the fields of a choice that stays in FP32."""
        if not isinstance(data, dict) or "unit" not in data or data.get("bits", FP32) != FP32:
            return data
        return {key: value for key, value in data.items() if key not in Choice.model_fields}

    @property
    def is_fp32(self) -> bool:
        """Whether every channel is kept, so that nothing changes."""
        return self.unit.share == 1

    @property
    def label(self) -> str:
        """Channels kept of all, and heads where some are removed."""
        unit, text = self.unit, f"{len(self.unit.indices)}/{self.unit.size}"
        return text if unit.kept_heads == unit.heads else f"{text}:{unit.kept_heads}"

    def key(self) -> str:
        """A stable text for journals and caches."""
        return self.model_dump_json()


class Option(Protocol):
    """What a search may decide for a name: bits of a component, or the width of an MLP or an attention."""

    @property
    def is_fp32(self) -> bool:
        """Whether the model computes as it did in FP32."""

    @property
    def label(self) -> str:
        """A short text for tables and figures."""

    def key(self) -> str:
        """A stable text for journals and caches."""


FLOAT = Choice(bits=32, quantizer="none")
Assignment = dict[str, Choice]  # component name -> choice
Decisions = Mapping[str, Choice | WidthChoice]  # name of a component, an MLP or an attention -> what was decided


def bits_of(decisions: Decisions) -> Assignment:
    """Return the choices of components, without widths."""
    return {name: choice for name, choice in decisions.items() if isinstance(choice, Choice)}


def widths_of(decisions: Decisions) -> dict[str, WidthChoice]:
    """Return the widths of MLPs and attentions, without choices of bits."""
    return {name: choice for name, choice in decisions.items() if isinstance(choice, WidthChoice)}
