"""Tell whether two modules compute the same but for the values of their tensors: what is captured of one holds for the other."""

from __future__ import annotations

import types
from collections.abc import Hashable
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

#: attributes that say where weights come from, and nothing of what is computed
_DESCRIBES = ("pretrained_cfg", "default_cfg", "pruning_plan", "pruned_from", "made_with")
_OWN = frozenset(vars(nn.Module()))
_PLAIN = (int, float, bool, str, bytes, complex, torch.dtype, torch.device, torch.memory_format, type(None), type(...))


#: of how many modules something is kept
KEPT = 8
Found = TypeVar("Found")


class ModuleCache(Generic[Found]):
    """What was found out of modules, for others that differ from them in the values of their tensors alone."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Found] = {}

    def get(self, key: Hashable | None) -> Found | None:
        """What is known of modules with a fingerprint, if that is anything."""
        return None if key is None else self._known.get(key)

    def put(self, key: Hashable | None, found: Found) -> Found:
        """Keep what was found, in place of what was kept first if that is much already; give it."""
        if key is not None:
            while len(self._known) >= KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[key] = found
        return found


class _Unknown(Exception):
    """An attribute whose meaning is not known."""


def fingerprint(model: nn.Module, image: Tensor) -> Hashable | None:
    """All that the graph of ``model`` for ``image`` depends on; nothing where a module holds what is not known here."""
    try:
        modules = tuple((name, *_of(module)) for name, module in model.named_modules(remove_duplicate=False))
    except _Unknown:
        return None
    return tuple(image.shape), image.dtype, image.device.type, modules


def _of(module: nn.Module) -> tuple[Any, ...]:
    own = vars(module)
    if any(own[key] for key in own if key.endswith("_hooks") and key in _OWN) or "forward" in own:
        raise _Unknown
    tensors = {**module._parameters, **module._buffers}
    shapes = tuple((name, None if t is None else (tuple(t.shape), t.dtype)) for name, t in tensors.items())
    attributes: list[tuple[str, Hashable]] = [
        (key, _plain(value)) for key, value in own.items() if key not in _OWN and key not in _DESCRIBES
    ]
    return type(module), module.training, shapes, tuple(module._modules), tuple(attributes)


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
        return type(value), tuple((_plain(key), _plain(of)) for key, of in value.items())
    raise _Unknown
