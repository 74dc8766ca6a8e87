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
    """The remaining channels of a unit whose ``size`` channels, divided into ``heads``, are removed together.

    A head without remaining channels is removed; all other heads keep equally many. ``layers`` are the layers that compute
    the channels, then the one that reads them; ``products`` are the operators that become smaller with them. Without any,
    timm's names of a ViT are used.

    >>> unit = PrunedUnit(kind="attention", size=6, heads=2, kept="3-4")
    >>> unit.indices, unit.kept_heads, unit.share
    ([3, 4], 1, 0.3333333333333333)
    """

    kind: Kind
    size: int = Field(ge=1, le=1 << 20)
    heads: int = Field(default=1, ge=1)
    kept: Ranges
    layers: tuple[str, ...] = ()
    products: tuple[str, ...] = ()

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
        """Indices of the kept channels in rising order."""
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

    def layers_at(self, name: str) -> tuple[str, ...]:
        """Layers that make the channels of the unit ``name``, and last the one that reads them."""
        layers = ("fc1", "fc2") if self.kind == "hidden" else ("qkv", "proj")
        return self.layers or tuple(f"{name}.{layer}" for layer in layers)

    def products_at(self, name: str) -> tuple[str, ...]:
        """Products of activations that take less where less of the unit ``name`` is kept."""
        if self.layers or self.kind != "attention":
            return self.products
        return (f"{name}.q@k", f"{name}.attn@v")

    @classmethod
    def of(
        cls,
        kind: Kind,
        size: int,
        indices: Iterable[int],
        heads: int = 1,
        layers: tuple[str, ...] = (),
        products: tuple[str, ...] = (),
    ) -> PrunedUnit:
        """Write indices down."""
        runs: list[list[int]] = []
        for index in sorted(indices):
            if runs and index == runs[-1][1] + 1:
                runs[-1][1] = index
            else:
                runs.append([index, index])
        kept = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
        return cls(kind=kind, size=size, heads=heads, kept=kept, layers=layers, products=products)


class PruningPlan(_Strict):
    """The channels that each unit keeps, by the name of its module, and how they were chosen.

    Attributes:
        importance: by which channels were ranked.
        ranked: whether the channels of heads were mixed before, so that the first of them hold the most.
        recovered: whether the layers that read removed channels were refitted by least squares.
        weights_sha256: hash of the pruned weights in FP32, including refitted ones.
        parameters: number of parameters.
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
    """A unit whose width a search decides.

    Attributes:
        name: of its module.
        options: from the least to all of it.
        rest_bytes: of what shrinks with it and is no component's: biases of the layers that make its channels.
        keys: of an attention whose heads may get narrower the layer that makes the keys, and which of its outputs is each
            channel.
    """

    name: str
    options: tuple[PrunedUnit, ...]
    rest_bytes: float = 0.0
    keys: tuple[str, tuple[int, ...]] | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers that make the channels, and last the one that reads them."""
        return self.options[0].layers_at(self.name)

    @property
    def operators(self) -> tuple[str, ...]:
        """Products that take less where less is kept."""
        return (*self.layers, *self.options[0].products_at(self.name))
