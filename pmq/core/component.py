"""What a model is made of, as far as bits are concerned. Described without torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pmq.core.errors import PmqError

Role = Literal["weight", "activation"]
Slot = Literal["weight", "input", "q", "k", "softmax", "v"]


@dataclass(frozen=True)
class Component:
    """A tensor that gets its own bit-width.

    Attributes:
        module: the timm module it belongs to: ``blocks.0.attn.qkv`` for a Linear's weight and input,
            ``blocks.0.attn`` for the operands of attention.
        slot: which tensor of that module.
        kind: what its values are like: ``qkv``, ``proj``, ``fc1``, ``fc2``, ``head``, ``patch_embed`` ... for weights;
            ``image``, ``norm``, ``attention``, ``gelu``, ``features``, ``q``, ``k``, ``softmax``, ``v`` for activations.
        stage: index of the restartable part of the model that holds it (see :mod:`pmq.models.stages`).
        shape: of a weight ``(O, I, ...)``; of an activation ``(tokens, channels)`` for one image.
        heads: attention heads that q, k, softmax and v divide into; 1 for all else.
    """

    module: str
    slot: Slot
    kind: str
    stage: int
    shape: tuple[int, ...]
    heads: int = 1

    @property
    def name(self) -> str:
        """Unique name: ``blocks.0.attn.qkv.weight``."""
        return f"{self.module}.{self.slot}"

    @property
    def role(self) -> Role:
        """Weight or activation."""
        return "weight" if self.slot == "weight" else "activation"

    @property
    def numel(self) -> int:
        """How many values it has (an activation: for one image)."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Operator:
    """A product of two components: ``macs`` multiply-accumulates for one image."""

    name: str
    macs: int
    operands: tuple[str, str]


@dataclass(frozen=True)
class Inventory:
    """All components and products of a model.

    Attributes:
        rest_bytes: bytes of the parameters that no component holds (biases, norms, embeddings), kept in FP32.
        uncovered: modules that multiply but that no rule covers, with the reason; they stay in FP32.
    """

    components: tuple[Component, ...]
    operators: tuple[Operator, ...]
    rest_bytes: int
    uncovered: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Component]:
        return iter(self.components)

    def __getitem__(self, name: str) -> Component:
        for component in self.components:
            if component.name == name:
                return component
        raise PmqError(f"component {name!r} is not one of the model's {len(self.components)}, such as {self.names[0]!r}")

    @property
    def names(self) -> tuple[str, ...]:
        """Component names in model order."""
        return tuple(c.name for c in self.components)

    def check_names(self, names: Iterator[str] | list[str] | dict[str, Any]) -> None:
        """Raise unless ``names`` are exactly this model's components."""
        own, given = set(self.names), set(names)
        for unknown in sorted(given - own):
            raise PmqError(f"component {unknown!r} does not exist in this model: the allocation is of another one")
        for missing in [n for n in self.names if n not in given]:
            raise PmqError(f"component {missing!r} of this model is missing: the allocation is of another one")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; :meth:`from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Inventory:
        """Read what :meth:`to_dict` wrote."""
        return cls(
            tuple(Component(**(c | {"shape": tuple(c["shape"])})) for c in data["components"]),
            tuple(Operator(o["name"], o["macs"], (o["operands"][0], o["operands"][1])) for o in data["operators"]),
            data["rest_bytes"],
            tuple(data["uncovered"]),
        )
