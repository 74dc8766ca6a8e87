"""Components, operators and inventories: the parts of a model that bit-widths are chosen for, without torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from pmq.core.errors import PmqError
from pmq.core.validation import shown, validated

Role = Literal["weight", "activation"]
Slot = Literal["weight", "input", "q", "k", "softmax", "v", "left", "right", "tensor"]


@dataclass(frozen=True)
class Component:
    """A tensor with its own bit-width.

    Attributes:
        module: the module it belongs to: ``blocks.0.attn.qkv`` for a Linear's weight and input,
            ``blocks.0.attn`` for the operands of attention; for a tensor the operator that computes it, or the constant.
        slot: which tensor of that module.
        kind: what its values are like: ``qkv``, ``proj``, ``fc1``, ``fc2``, ``head``, ``patch_embed`` ... for weights;
            ``image``, ``norm``, ``attention``, ``gelu``, ``features``, ``q``, ``k``, ``softmax``, ``v`` for activations.
        stage: index of the restartable part of the model that holds it (see :mod:`pmq.graph.stages`).
        shape: of a weight ``(O, I, ...)``; of an activation ``(tokens, channels)`` for one image.
        heads: attention heads that q, k, softmax and v divide into; 1 for all else.
        same: name of the component before it that is the same tensor, which another operator reads; empty without.
    """

    module: str
    slot: Slot
    kind: str
    stage: int
    shape: tuple[int, ...]
    heads: int = 1
    same: str = ""

    @property
    def name(self) -> str:
        """Unique name: ``blocks.0.attn.qkv.weight``."""
        return f"{self.module}.{self.slot}"

    @property
    def role(self) -> Role:
        """Weight or activation."""
        return "weight" if self.slot == "weight" else "activation"

    @property
    def fixed(self) -> bool:
        """Whether it is a constant of a whole graph, which has the same values for all images."""
        return self.kind in ("constant", "scale") and self.slot == "tensor"

    @property
    def numel(self) -> int:
        """Number of values; of an activation, for one image."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Operator:
    """A product of two components, with ``macs`` multiply-accumulates for one image."""

    name: str
    macs: int
    operands: tuple[str, str]


@dataclass(frozen=True)
class Uncovered:
    """A product outside the components of a module, with the reason; it stays in FP32.

    ``macs`` are multiply-accumulates for one image; ``module`` is empty where the model does it outside of its modules.
    """

    module: str
    reason: str
    macs: int = 0

    def __str__(self) -> str:
        return f"{self.module or 'the model itself'}: {self.reason}"


def _of_line(entry: Any) -> Any:
    """Convert an entry of earlier versions, which was a line of text."""
    if not isinstance(entry, str):
        return entry
    module, _, reason = entry.partition(": ")
    return {"module": module, "reason": reason}


@dataclass(frozen=True)
class Inventory:
    """All components and products of a model, and the products outside them.

    Attributes:
        rest_bytes: bytes of the parameters that no component holds (biases, norms, embeddings), kept in FP32.
        uncovered: products that no rule covers; and layers that were never called.
        total_macs: multiply-accumulates for one image, whoever does them; 0 in inventories of old, which did not count them.
        results: of a whole graph, the component that each product computes, by the product's name; otherwise empty.
    """

    components: tuple[Component, ...]
    operators: tuple[Operator, ...]
    rest_bytes: int
    uncovered: tuple[Annotated[Uncovered, BeforeValidator(_of_line)], ...] = ()
    total_macs: int = 0
    results: dict[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Component]:
        return iter(self.components)

    def __getitem__(self, name: str) -> Component:
        for component in self.components:
            if component.name == name:
                return component
        raise PmqError(f"component {name!r} is not one of the model's {len(self.components)}, such as {self.names[0]!r}")

    @property
    def whole(self) -> bool:
        """Whether every tensor between operators is a component."""
        return bool(self.results)

    @property
    def norms_written_out(self) -> bool:
        """Whether the tensors inside of norms are components, for targets that have no norm in integers."""
        return any(c.kind == "moment" for c in self.components)

    def source_of(self, module: str) -> str:
        """Return the name of the component that a layer reads: its input, or the tensor that another operator computed."""
        return self._sources.get(module, f"{module}.input")

    @cached_property
    def _sources(self) -> dict[str, str]:
        return {op.name: op.operands[1] for op in self.operators if op.name in self.results}

    @property
    def macs(self) -> int:
        """Multiply-accumulates of products of components."""
        return sum(operator.macs for operator in self.operators)

    @property
    def covered_share(self) -> float | None:
        """The components' share of all multiply-accumulates; None where these were not counted."""
        return self.macs / self.total_macs if self.total_macs else None

    @property
    def covered_bytes(self) -> float:
        """The components' share of the bytes of all parameters."""
        held = sum(4 * component.numel for component in self.components if component.slot == "weight")
        return held / max(held + self.rest_bytes, 1)

    @property
    def names(self) -> tuple[str, ...]:
        """Component names in model order."""
        return tuple(c.name for c in self.components)

    def check_names(self, names: Iterator[str] | list[str] | dict[str, Any]) -> None:
        """Raise unless ``names`` are exactly this model's components."""
        expected, present = set(self.names), set(names)
        for unknown in sorted(present - expected):
            raise PmqError(f"component {unknown!r} does not exist in this model: the allocation is of another model")
        for missing in [n for n in self.names if n not in present]:
            raise PmqError(f"component {missing!r} of this model is missing: the allocation is of another model")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, which :meth:`from_dict` reads."""
        data = asdict(self)
        return data if self.results else {key: value for key, value in data.items() if key != "results"}

    @classmethod
    def from_dict(cls, data: dict[str, Any], what: str = "inventory") -> Inventory:
        """Read what :meth:`to_dict` wrote; messages call it ``what``.

        Raises:
            PmqError: the data is no inventory.
        """
        inventory = validated(cls, data, what)
        names = set(inventory.names)
        if not names or len(names) < len(inventory.components):
            raise PmqError(f"{what}: components are missing, or one appears twice")
        for component in inventory:
            if not component.shape or min(*component.shape, component.heads) < 1 or component.stage < 0:
                raise PmqError(f"{what}: component {shown(component.name)} has sizes that are not positive")
        for operator in inventory.operators:
            if not names.issuperset(operator.operands) or operator.macs < 0:
                raise PmqError(
                    f"{what}: product {shown(operator.name)} is of unknown components, or its multiply-accumulates are negative"
                )
        for part, value in (("rest_bytes", inventory.rest_bytes), ("total_macs", inventory.total_macs)):
            if value < 0:
                raise PmqError(f"{what}: {part} is negative: {value}")
        return inventory
