"""Weights under two names: each name gets weights of its own, so that bits can be decided for it by itself."""

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
    """A copy, as ``name`` of ``owner``, in place of a module that has another name before."""

    owner: nn.Module
    name: str
    path: str
    original: nn.Module
    twin: nn.Module


def part(model: nn.Module, image: Tensor) -> list[str]:
    """Clone, in place, parameters and modules that are met a second time; give their names.

    A module that a pass over ``image`` ``(1, C, H, W)`` calls by its first name alone stays one: the other only names it.
    """
    twins: list[_Twin] = []
    parameters = list(_part(model, set(), "", twins))
    called: set[nn.Module] = set()
    if twins:
        hooks = [
            module.register_forward_pre_hook(lambda module, _: called.add(module))
            for twin in twins
            for module in {*twin.original.modules(), *twin.twin.modules()}
        ]
        with suppress(PmqError):  # where it fails, whoever asks for its output is told why
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


def _part(module: nn.Module, seen: set[int], prefix: str, twins: list[_Twin]) -> Iterator[str]:
    """Clone what is met a second time below ``module``; give the names of parameters, add modules to ``twins``."""
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
        yield from _part(child, seen, f"{prefix}{name}.", twins)
