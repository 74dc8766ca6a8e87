"""Descriptions of the components that an allocation is for, and checks of its choices, parameters and tensors against them."""

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
from pmq.core.quantizer_parameters import TOP, why_unfit, why_wrong
from pmq.core.validation import shown

_REMEDY = "search again, or pass `recalibrate` to compute it from images"


class ComponentDescription(BaseModel):
    """Description of a component in an allocation, see :class:`pmq.core.component.Component`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    heads: int = Field(default=1, ge=1)

    @classmethod
    def of(cls, component: Component) -> ComponentDescription:
        """Describe a component."""
        return cls(kind=component.kind, shape=component.shape, heads=component.heads)


Descriptions = Mapping[str, ComponentDescription]


def describe_components(inventory: Inventory) -> dict[str, ComponentDescription]:
    """Return the descriptions of a model's components, by name."""
    return {component.name: ComponentDescription.of(component) for component in inventory}


def check_choices(choices: Mapping[str, ComponentChoice], of: Descriptions | None, what: str) -> None:
    """Raise unless the choices cover exactly the described components, and each component can have its choice."""
    for name in choices if of is None else [*(n for n in of if n not in choices), *(n for n in choices if n not in of)]:
        if of is not None:
            fault = "is missing" if name in of else "is not one of its model's"
            raise PmqError(f"{what}: component {shown(name)} {fault}; search again")
    for name, choice in choices.items():
        reason = why_unfit(_slot(name), choice.quantizer, choice.granularity, choice.bits)
        if reason:
            raise PmqError(f"{what}: component {shown(name)}: {reason}")


def check_parameters(
    choices: Mapping[str, ComponentChoice], patches: PatchMap | None, of: Descriptions | None, what: str
) -> None:
    """Raise unless every quantized activation, and each of its tokens, has the parameters that its quantizer needs.

    Without descriptions the number of heads is unknown and not checked.
    """
    activations = {name: choice for name, choice in choices.items() if _slot(name) != "weight"}
    for name, choice in activations.items():
        _check(name, choice, of, what)
    maps = {} if patches is None else patches.components
    for name, tokens in maps.items():
        if name not in activations:
            raise PmqError(f"{what}: patches of {shown(name)}, which is no activation of its model; search again")
        for bits, choice in tokens.others.items():
            reason = why_unfit(_slot(name), choice.quantizer, choice.granularity)
            if reason or bits != choice.bits:
                raise PmqError(f"{what}: patches of {shown(name)} at {bits} bits: {reason or f'they have {choice.bits}'}")
            _check(name, choice, of, what)
        missing = set(map(int, tokens.array)) - {0, 32, activations[name].bits, *tokens.others}
        if missing:
            raise PmqError(f"{what}: patches of {shown(name)} have {min(missing)} bits, but no quantizer for them; {_REMEDY}")


def _check(name: str, choice: ComponentChoice, of: Descriptions | None, what: str) -> None:
    scales: int | None = 1
    if choice.granularity == "head":
        scales = None if of is None else of[name].heads
    reason = why_wrong(choice, choice.parameters, scales)
    if reason:
        raise PmqError(f"{what}: component {shown(name)}: {reason}; {_REMEDY}")


def check_tensors(choices: Mapping[str, ComponentChoice], of: Descriptions, tensors: Mapping[str, Any], what: str) -> None:
    """Raise unless the tensors beside an allocation are those that its weights are rebuilt from, with their types and sizes."""
    for name, choice in choices.items():
        if _slot(name) == "weight":
            for tensor, (kind, size) in _stored(name, choice, of[name].shape).items():
                array = tensors.get(tensor)
                if array is None:
                    raise PmqError(f"{what}: its tensors have no {shown(tensor)}; {_REMEDY}")
                if not np.issubdtype(array.dtype, kind) or array.size != size:
                    expected = "a float" if kind is np.floating else kind.__name__
                    values = f"{array.size} values of {array.dtype}, not {size} of {expected}"
                    raise PmqError(f"{what}: tensor {shown(tensor)} has {values}; {_REMEDY}")
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise PmqError(f"{what}: tensor {shown(name)} is not finite; {_REMEDY}")
        if name.endswith(".weight.scale") and not (array > 0).all():
            raise PmqError(f"{what}: tensor {shown(name)} is not positive; {_REMEDY}")
        if name.endswith(".weight.levels") and not ((array <= TOP["palette"]).all() and (array[1:] >= array[:-1]).all()):
            raise PmqError(f"{what}: tensor {shown(name)} does not rise from 0 to at most {TOP['palette']}; {_REMEDY}")


def _stored(name: str, choice: ComponentChoice, shape: tuple[int, ...]) -> dict[str, tuple[Any, int]]:
    """Return types and sizes of the tensors that a weight is rebuilt from."""
    if choice.is_fp32:
        return {name: (np.floating, math.prod(shape))}
    scales = choice.scales(shape)
    values = scales * choice.group_size if choice.group_size else math.prod(shape)
    expected: dict[str, tuple[Any, int]] = {f"{name}.codes": (np.uint8, -(-values * choice.bits // 8))}
    if choice.quantizer not in FLOATS:
        expected[f"{name}.scale"] = (np.float32, scales)
    if choice.quantizer == "palette":
        expected[f"{name}.levels"] = (np.uint8, 2**choice.bits)
    elif choice.quantizer not in FLOATS and not choice.symmetric:
        expected[f"{name}.zero_point"] = (np.float32, scales)
    return expected


def _slot(name: str) -> str:
    return name.rpartition(".")[2]
