"""Bits of single tokens: the bit-width of each position, or of each rank by a score, in each activation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pmq.core.choice import ComponentChoice

#: a digit for each token; 0 is a token that is not computed, f a token in FP32
Digits = Annotated[str, Field(pattern="^[0234568f]+$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenBits(_Strict):
    """Bits of the tokens of one activation, a digit each, and the quantizers at bits other than the activation's own.

    >>> TokenBits(bits="8440").mean_bits
    4.0
    """

    bits: Digits
    others: dict[int, ComponentChoice] = Field(default_factory=dict)

    @property
    def array(self) -> NDArray[np.int64]:
        """Bits of each token ``(T,)``."""
        return np.array([32 if digit == "f" else int(digit) for digit in self.bits])

    @classmethod
    def of(cls, bits: Iterable[int], others: dict[int, ComponentChoice] | None = None) -> TokenBits:
        """Build the token bits from the bits of each token."""
        return cls(bits="".join("f" if b == 32 else str(b) for b in bits), others=others or {})

    @property
    def mean_bits(self) -> float:
        """Mean bits over all tokens."""
        return float(self.array.mean())

    @property
    def kept(self) -> list[int]:
        """Indices of the tokens that are computed."""
        return [int(token) for token in self.array.nonzero()[0]]


class PatchMap(_Strict):
    """Bits of tokens under an allocation.

    ``static``: of each position, the same for every image. ``dynamic``: of each rank, tokens of an image being ranked by
    ``score``, the highest first. The first ``prefix`` tokens (class, distillation) keep their places.
    """

    kind: Literal["static", "dynamic"]
    score: str | None = None
    prefix: int = Field(default=0, ge=0)
    components: dict[str, TokenBits]

    @model_validator(mode="after")
    def _consistent(self) -> PatchMap:
        if (self.kind == "dynamic") != (self.score is not None):
            raise ValueError(f"score={self.score!r} with kind={self.kind!r}: dynamic maps rank by a score, static ones do not")
        return self

    @property
    def mean_bits(self) -> dict[str, float]:
        """Component -> mean bits of its tokens."""
        return {name: tokens.mean_bits for name, tokens in self.components.items()}

    @property
    def simulated(self) -> bool:
        """Whether the map can only be simulated: runtimes execute only maps that skip tokens at fixed positions."""
        return self.kind == "dynamic" or any(len(set(tokens.bits) - {"0"}) > 1 for tokens in self.components.values())

    @property
    def label(self) -> str:
        """Text for tables: ``static``, ``dynamic, simulated``."""
        return f"{self.kind}, simulated" if self.simulated else self.kind
