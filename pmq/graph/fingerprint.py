"""Fingerprints of modules: equal where only tensor values differ, so that a graph captured from one is valid for the other."""

from __future__ import annotations

import types
from collections.abc import Hashable
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

#: attributes that describe a model's origin and do not affect what it computes
_DESCRIBES = ("pretrained_cfg", "default_cfg", "pruning_plan", "pruned_from", "made_with")
#: attributes that every module has
_BASE_ATTRIBUTES = frozenset(vars(nn.Module()))
#: types whose values are hashable and compare by value
_PLAIN = (int, float, bool, str, bytes, complex, torch.dtype, torch.device, torch.memory_format, type(None), type(...))

#: capacity of a cache, in modules
MAX_MODULES = 8
Value = TypeVar("Value")


class ModuleCache(Generic[Value]):
    """Cache of values computed from modules, keyed by the module's :func:`fingerprint`.

    It holds at most ``MAX_MODULES`` values and evicts the oldest one first. The key None, of a module without a fingerprint,
    is never stored.
    """

    def __init__(self) -> None:
        self._values: dict[Hashable, Value] = {}

    def get(self, key: Hashable | None) -> Value | None:
        """Return the cached value of a fingerprint, or None."""
        return None if key is None else self._values.get(key)

    def put(self, key: Hashable | None, value: Value) -> Value:
        """Store a value under a fingerprint and return it."""
        if key is not None:
            while len(self._values) >= MAX_MODULES:
                self._values.pop(next(iter(self._values)))
            self._values[key] = value
        return value


class _Unknown(Exception):
    """Raised at an attribute that cannot be compared by value."""


def fingerprint(model: nn.Module, image: Tensor) -> Hashable | None:
    """Return a key of all that the graph of ``model`` for ``image`` depends on, apart from tensor values.

    Returns:
        The key; None if a module has hooks, its own ``forward``, or an attribute that cannot be compared by value.
    """
    try:
        modules = tuple((name, *_of(module)) for name, module in model.named_modules(remove_duplicate=False))
    except _Unknown:
        return None
    return tuple(image.shape), image.dtype, image.device.type, modules


def _of(module: nn.Module) -> tuple[Any, ...]:
    attributes = vars(module)
    hooks = (key for key in attributes if key.endswith("_hooks") and key in _BASE_ATTRIBUTES)
    if any(attributes[key] for key in hooks) or "forward" in attributes:
        raise _Unknown
    tensors = {**module._parameters, **module._buffers}
    shapes = tuple((name, None if t is None else (tuple(t.shape), t.dtype)) for name, t in tensors.items())
    settings: list[tuple[str, Hashable]] = [
        (key, _plain(value)) for key, value in attributes.items() if key not in _BASE_ATTRIBUTES and key not in _DESCRIBES
    ]
    return type(module), module.training, shapes, tuple(module._modules), tuple(settings)


def _plain(value: Any) -> Hashable:
    if isinstance(value, _PLAIN) or type(value) is type:
        return type(value), value
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | type) and getattr(value, "__closure__", None) is None:
        return value
    if isinstance(value, partial):
        return partial, _plain(value.func), _plain(value.args), _plain(value.keywords)
    if isinstance(value, list | tuple | set | frozenset):
        return type(value), tuple(map(_plain, sorted(value, key=repr) if isinstance(value, set | frozenset) else value))
    if isinstance(value, dict):
        return type(value), tuple((_plain(key), _plain(entry)) for key, entry in value.items())
    raise _Unknown
