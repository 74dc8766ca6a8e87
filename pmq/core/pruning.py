"""The pruning plan: which channels of a model are kept, so that the pruned model can be rebuilt from its name."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pmq.core.validation import shown

#: ``hidden``: between the two layers of an MLP; ``attention``: of q, k and v, head by head; ``embedding``: the residual stream
Kind = Literal["hidden", "attention", "embedding"]
#: indices in rising order as ranges: ``0-5,7``
Ranges = Annotated[str, Field(pattern=r"^\d+(-\d+)?(,\d+(-\d+)?)*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PrunedUnit(_Strict):
    """Channels that are removed together: what is left of ``size``, which divide into ``heads``.

    A head of which nothing is left is removed; the others keep equally many channels.

    >>> unit = PrunedUnit(kind="attention", size=6, heads=2, kept="3-4")
    >>> unit.indices, unit.kept_heads, unit.share
    ([3, 4], 1, 0.3333333333333333)
    """

    kind: Kind
    size: int = Field(ge=1, le=1 << 20)
    heads: int = Field(default=1, ge=1)
    kept: Ranges

    @model_validator(mode="after")
    def _consistent(self) -> PrunedUnit:
        if max(map(int, self.kept.replace("-", ",").split(","))) >= self.size:  # before they are written out
            raise ValueError(f"kept={shown(self.kept)}: indices are below the size, {self.size}")
        indices = self.indices
        if not indices or indices != sorted(set(indices)):
            raise ValueError(f"kept={shown(self.kept)}: indices rise")
        if self.size % self.heads or len({n for n in self._of_heads if n}) > 1:
            raise ValueError(f"kept={shown(self.kept)} of {self.heads} heads: those that are kept have equally many channels")
        return self

    @property
    def indices(self) -> list[int]:
        """What is kept, in rising order."""
        ends = ([int(end) for end in part.split("-")] for part in self.kept.split(","))
        return [index for low, *high in ends for index in range(low, (high or [low])[0] + 1)]

    @property
    def _of_heads(self) -> list[int]:
        width = self.size // self.heads
        counts = Counter(index // width for index in self.indices)
        return [counts[head] for head in range(self.heads)]

    @property
    def kept_heads(self) -> int:
        """How many heads are left."""
        return sum(n > 0 for n in self._of_heads)

    @property
    def share(self) -> float:
        """Of its channels, that are kept."""
        return len(self.indices) / self.size

    @classmethod
    def of(cls, kind: Kind, size: int, indices: Iterable[int], heads: int = 1) -> PrunedUnit:
        """Write indices down."""
        runs: list[list[int]] = []
        for index in sorted(indices):
            if runs and index == runs[-1][1] + 1:
                runs[-1][1] = index
            else:
                runs.append([index, index])
        kept = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
        return cls(kind=kind, size=size, heads=heads, kept=kept)


class PruningPlan(_Strict):
    """What is kept of each unit, by the name of its module; and how it was chosen.

    Attributes:
        importance: by which channels were ranked.
        ranked: whether the channels of heads were mixed before, so that the first of them hold the most.
        recovered: whether the layers behind what was removed were fitted anew.
        weights_sha256: hash of the pruned weights in FP32, those fitted anew among them.
        parameters: how many there are.
    """

    importance: str
    ranked: bool = False
    recovered: bool
    units: dict[str, PrunedUnit]
    weights_sha256: str | None = None
    parameters: int | None = None

    @property
    def digest(self) -> str:
        """What two plans share that remove the same."""
        kept = sorted((name, unit.kept) for name, unit in self.units.items() if unit.share < 1)
        return hashlib.sha256(repr(kept).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class WidthOptions:
    """A unit of which a search decides how much is kept.

    Attributes:
        name: of its module.
        options: from the least to all of it.
        rest_bytes: of what shrinks with it and is no component's: biases of the layer that makes its channels.
    """

    name: str
    options: tuple[PrunedUnit, ...]
    rest_bytes: float = 0.0

    @property
    def layers(self) -> tuple[str, str]:
        """The layer that makes the channels, and the one that reads them."""
        both = ("fc1", "fc2") if self.options[0].kind == "hidden" else ("qkv", "proj")
        return f"{self.name}.{both[0]}", f"{self.name}.{both[1]}"

    @property
    def operators(self) -> tuple[str, ...]:
        """Products that take less where less is kept."""
        inside = () if self.options[0].kind == "hidden" else (f"{self.name}.q@k", f"{self.name}.attn@v")
        return (*self.layers, *inside)
