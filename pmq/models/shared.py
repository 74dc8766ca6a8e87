"""Untying of shared weights: each name gets a separate copy, so that each can have its own bit-width."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from torch import Tensor, nn

from pmq.core.errors import PmqError
from pmq.models.output_selection import run


@dataclass(frozen=True)
class _Twin:
    """Copy of a shared module that replaces it as ``name`` of ``owner``."""

    owner: nn.Module
    name: str
    path: str
    original: nn.Module
    twin: nn.Module


def untie(model: nn.Module, image: Tensor) -> list[str]:
    """Replace shared parameters and modules by separate copies under their second and later names, in place.

    A module stays shared if a forward pass of ``image`` ``(1, C, H, W)`` calls it only by its first name, as the other name is
    then a mere alias.

    Returns:
        The names under which weights became separate copies.
    """
    twins: list[_Twin] = []
    parameters = list(_clone(model, set(), "", twins))
    called: set[nn.Module] = set()
    if twins:
        hooks = [
            module.register_forward_pre_hook(lambda module, _: called.add(module))
            for twin in twins
            for module in {*twin.original.modules(), *twin.twin.modules()}
        ]
        with suppress(PmqError):  # the caller's own pass reports the failure
            run(model, image)
        for hook in hooks:
            hook.remove()
    names = parameters
    for twin in twins:
        if called.isdisjoint(twin.twin.modules()) and not called.isdisjoint(twin.original.modules()):
            twin.owner._modules[twin.name] = twin.original
        elif next(twin.twin.parameters(), None) is not None:
            names.append(twin.path)
    return names


def _clone(module: nn.Module, seen: set[int], prefix: str, twins: list[_Twin]) -> Iterator[str]:
    """Clone parameters and modules below ``module`` that are in ``seen``; yield parameter names, add modules to ``twins``."""
    for name, parameter in module._parameters.items():
        if parameter is None:
            continue
        if id(parameter) in seen:
            module._parameters[name] = parameter = nn.Parameter(parameter.detach().clone())
            yield prefix + name
        seen.add(id(parameter))
    for name, child in module._modules.items():
        if child is None:
            continue
        if id(child) in seen:
            twin = copy.deepcopy(child)
            twins.append(_Twin(module, name, prefix + name, child, twin))
            module._modules[name] = child = twin
        seen.add(id(child))
        yield from _clone(child, seen, f"{prefix}{name}.", twins)
