"""What an allocation is of: the components it was made for, and whether choices, parameters and tensors fit them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pmq.core.choice import FLOATS, ComponentChoice
from pmq.core.component import Component, Inventory
from pmq.core.errors import PmqError
from pmq.core.patches import PatchMap
from pmq.core.quantizers import why_unfit, why_wrong
from pmq.core.validation import shown

_MEND = "search anew, or pass --recalibrate to compute it from images"


class ComponentDescription(BaseModel):
    """A component as an allocation tells of it: see :class:`pmq.core.component.Component`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    heads: int = Field(default=1, ge=1)

    @classmethod
    def of(cls, component: Component) -> ComponentDescription:
        """Tell of a component."""
        return cls(kind=component.kind, shape=component.shape, heads=component.heads)


Descriptions = Mapping[str, ComponentDescription]


def described(inventory: Inventory) -> dict[str, ComponentDescription]:
    """Tell of all of a model's components, by name."""
    return {component.name: ComponentDescription.of(component) for component in inventory}


def check_choices(choices: Mapping[str, ComponentChoice], of: Descriptions | None, what: str) -> None:
    """Raise unless choices are of exactly the components they are said to be of, and each can have its own."""
    for name in choices if of is None else [*(n for n in of if n not in choices), *(n for n in choices if n not in of)]:
        if of is not None:
            how = "is missing" if name in of else "is not one of its model's"
            raise PmqError(f"{what}: component {shown(name)} {how}; search anew")
    for name, choice in choices.items():
        reason = why_unfit(_slot(name), choice.quantizer, choice.granularity)
        if reason:
            raise PmqError(f"{what}: component {shown(name)}: {reason}")


def check_parameters(
    choices: Mapping[str, ComponentChoice], patches: PatchMap | None, of: Descriptions | None, what: str
) -> None:
    """Raise unless every quantized activation has all parameters that computing with it takes, and each of its tokens.

    Without descriptions nobody knows how many heads there are; all else is checked.
    """
    activations = {name: choice for name, choice in choices.items() if _slot(name) != "weight"}
    for name, choice in activations.items():
        _check(name, choice, of, what)
    maps = {} if patches is None else patches.components
    for name, tokens in maps.items():
        if name not in activations:
            raise PmqError(f"{what}: patches of {shown(name)}, which is no activation of its model; search anew")
        for bits, choice in tokens.others.items():
            reason = why_unfit(_slot(name), choice.quantizer, choice.granularity)
            if reason or bits != choice.bits:
                raise PmqError(f"{what}: patches of {shown(name)} at {bits} bits: {reason or f'they have {choice.bits}'}")
            _check(name, choice, of, what)
        missing = set(map(int, tokens.array)) - {0, 32, activations[name].bits, *tokens.others}
        if missing:
            raise PmqError(f"{what}: patches of {shown(name)} have {min(missing)} bits, but no quantizer for them; {_MEND}")


def _check(name: str, choice: ComponentChoice, of: Descriptions | None, what: str) -> None:
    scales: int | None = 1
    if choice.granularity == "head":
        scales = None if of is None else of[name].heads
    reason = why_wrong(choice, choice.parameters, scales)
    if reason:
        raise PmqError(f"{what}: component {shown(name)}: {reason}; {_MEND}")


def check_tensors(choices: Mapping[str, ComponentChoice], of: Descriptions, tensors: Mapping[str, Any], what: str) -> None:
    """Raise unless the tensors beside an allocation are those that its weights are rebuilt from."""
    for name, choice in choices.items():
        if _slot(name) == "weight":
            for tensor, (kind, size) in _stored(name, choice, of[name].shape).items():
                found = tensors.get(tensor)
                if found is None:
                    raise PmqError(f"{what}: its tensors have no {shown(tensor)}; {_MEND}")
                if not np.issubdtype(found.dtype, kind) or found.size != size:
                    wanted = "a float" if kind is np.floating else kind.__name__
                    told = f"{found.size} values of {found.dtype}, not {size} of {wanted}"
                    raise PmqError(f"{what}: tensor {shown(tensor)} has {told}; {_MEND}")
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise PmqError(f"{what}: tensor {shown(name)} is not finite; {_MEND}")
        if name.endswith(".weight.scale") and not (array > 0).all():
            raise PmqError(f"{what}: tensor {shown(name)} is not positive; {_MEND}")


def _stored(name: str, choice: ComponentChoice, shape: tuple[int, ...]) -> dict[str, tuple[Any, int]]:
    """Types and sizes of the tensors that a weight is rebuilt from."""
    if choice.is_fp32:
        return {name: (np.floating, math.prod(shape))}
    scales = choice.scales(shape)
    values = scales * choice.group_size if choice.group_size else math.prod(shape)
    found: dict[str, tuple[Any, int]] = {f"{name}.codes": (np.uint8, -(-values * choice.bits // 8))}
    if choice.quantizer not in FLOATS:
        found |= {f"{name}.{key}": (np.float32, scales) for key in ("scale", *(() if choice.symmetric else ("zero_point",)))}
    return found


def _slot(name: str) -> str:
    return name.rpartition(".")[2]
