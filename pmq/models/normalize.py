"""Take in a module that a user has: a plain copy in FP32 and evaluation mode, in which each weight is one by itself."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from pmq.core.errors import PmqError, one_line
from pmq.core.progress import message
from pmq.models.describe import input_size
from pmq.models.output_selection import SelectedOutput, run, tensors_of
from pmq.models.shared import part

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
#: packages whose modules keep their weights as integers
_QUANTIZED = ("torch.ao.nn.quantized", "torch.nn.quantized")
_NOT_COPIED = (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, pickle.PickleError)


@torch.inference_mode(False)
def adopt(model: nn.Module, image: Tensor | None = None) -> nn.Module:
    """Copy ``model``, which is left as it is; a line tells each thing that is otherwise in the copy.

    Wrappers are taken off, parametrizations are merged, checkpointing of gradients is off, parameters that are shared are
    no longer, and hooks are gone, which may not change what is computed for ``image`` ``(1, C, H, W)``; without one, for an
    empty one of the size that the model tells.

    Raises:
        PmqError: it is no module that can be copied, or it has no plain parameters on one device.
    """
    if not isinstance(model, nn.Module):
        raise PmqError(f"a model must be a torch module or one of timm's names, not {type(model).__name__}")
    _check(model)
    told = [f"without {type(m).__name__}" for m in model.modules() if _inner(m) is not None]
    told += ["not compiled" for m in model.modules() if m._compiled_call_impl is not None]  # a copy is without that
    copied = _copied(model).eval()
    _merge(copied, told)
    for module in copied.modules():
        for name in ("grad_checkpointing", "gradient_checkpointing"):
            if getattr(module, name, None) is True:
                setattr(module, name, False)
                told.append("checkpointing of gradients is off")
    types = {str(p.dtype).removeprefix("torch.") for p in model.parameters()} - {"float32"}
    told += [f"{', '.join(sorted(types))}: computed in FP32"] if types else []
    image = torch.zeros(1, *input_size(copied)) if image is None else image.detach()
    image = image.to(next(copied.parameters()).device)
    _drop_hooks(copied, image, told)
    shared = part(copied, image)
    told += [f"weights under two names are two, each with bits of its own: {', '.join(shared)}"] if shared else []
    for parameter in copied.parameters():
        parameter.requires_grad_(True)
    for line in dict.fromkeys(told):
        message(f"model, as it is taken in: {line}")
    return copied


def _inner(module: nn.Module) -> nn.Module | None:
    """What a wrapper runs, be it one that compiles or one that spreads data over devices."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return module.module
    inner = getattr(module, "_orig_mod", None)  # of torch.compile
    return inner if isinstance(inner, nn.Module) else None


def _check(model: nn.Module) -> None:
    kind = type(model).__name__
    _check_tree(model, ())
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise PmqError(f"model {kind} is a TorchScript program, whose layers cannot be exchanged; give the module it was made of")
    parameters = dict(model.named_parameters())
    if not parameters:
        raise PmqError(f"model {kind} has no parameters; give one that has weights to quantize")
    for name, tensor in (*parameters.items(), *model.named_buffers()):
        if is_lazy(tensor):
            raise PmqError(f"{name!r} of model {kind} is not initialised yet; run it on an image first")
        if tensor.is_meta:
            raise PmqError(f"{name!r} of model {kind} has no values (device meta); load its weights first")
    for name, tensor in parameters.items():
        if not tensor.is_floating_point() or tensor.layout != torch.strided or type(tensor.data) is not Tensor:
            met = str(tensor.dtype) if type(tensor.data) is Tensor else type(tensor.data).__name__
            raise PmqError(f"{name!r} of model {kind} is {met}, quantized or spread already; give it as plain tensors of floats")
    packed = next((name for name, module in model.named_modules() if type(module).__module__.startswith(_QUANTIZED)), None)
    if packed is not None:
        raise PmqError(f"module {packed!r} of model {kind} is quantized already; give the model in FP32")
    check_one_device(p.device for p in parameters.values())


def _check_tree(module: nn.Module, above: tuple[nn.Module, ...]) -> None:
    for name, child in module.named_children():
        if child in (*above, module):
            raise PmqError(f"module {type(child).__name__} lies in itself, as {name!r} of {type(module).__name__}; take that out")
        _check_tree(child, (*above, module))


def check_one_device(devices: Iterable[torch.device]) -> None:
    """Raise if a model lies on several devices.

    Raises:
        PmqError: it does.
    """
    names = sorted({str(device) for device in devices})
    if len(names) > 1:
        raise PmqError(f"parameters lie on several devices, {', '.join(names)}; move the model to one of them")


def _copied(model: nn.Module) -> nn.Module:
    """Copy a model without its wrappers; its parameters and other tensors are cloned, as FP32 and whatever made them."""
    types = {p.dtype for p in model.parameters()}
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in _held(vars(module)):
            clone = tensor.detach().to(torch.float32 if tensor.dtype in types else tensor.dtype, copy=True)
            memo.setdefault(id(tensor), nn.Parameter(clone) if isinstance(tensor, nn.Parameter) else clone)
    try:
        for module in reversed(list(model.modules())):
            if (inner := _inner(module)) is not None:
                memo[id(module)] = copy.deepcopy(inner, memo)
        return copy.deepcopy(model, memo)
    except (*_NOT_COPIED, RecursionError) as error:
        raise PmqError(f"model {type(model).__name__} cannot be copied: {one_line(error)}; take out of it what cannot") from None


def _held(attributes: dict[str, Any]) -> list[Tensor]:
    """All tensors that a module's attributes hold, but those of modules below it."""
    found, left, seen = [], [attributes], set()
    while left:
        value: Any = left.pop()
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            left += value.values() if isinstance(value, dict) else value
    return found


def _merge(model: nn.Module, told: list[str]) -> None:
    """Put plain weights in place of such as are computed anew in each pass."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                told.append(f"parametrizations ({type(module.parametrizations[name][0]).__name__}) are merged")  # type: ignore[index]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        for hook in list(module._forward_pre_hooks.values()):
            remove: Callable[[nn.Module, str], Any]
            for kind, remove in ((WeightNorm, remove_weight_norm), (SpectralNorm, remove_spectral_norm)):
                if isinstance(hook, kind):
                    told.append(f"{kind.__name__} is merged")
                    remove(module, hook.name)
            if isinstance(hook, prune.BasePruningMethod):
                told.append("masks of torch.nn.utils.prune are merged")
                prune.remove(module, hook._tensor_name)


def _drop_hooks(model: nn.Module, image: Tensor, told: list[str]) -> None:
    """Remove all hooks but ours.

    Raises:
        PmqError: without them, another output is computed for ``image``.
    """
    held = [
        (name, hooks, key)
        for name, module in model.named_modules()
        for hooks in (getattr(module, kind) for kind in _HOOKS)
        for key, hook in hooks.items()
        if not isinstance(hook, SelectedOutput)
    ]
    if not held:
        return
    before = run(model, image)
    for _, hooks, key in held:
        del hooks[key]
    if not _equal(before, run(model, image)):
        places = ", ".join(dict.fromkeys(repr(name) for name, *_ in held))
        raise PmqError(f"hooks of modules {places} change what the model computes; give a model that does it in its forward")
    told.append(f"without its hooks ({len(held)})")


def _equal(one: Any, other: Any) -> bool:
    parts = [dict(tensors_of(output)) for output in (one, other)]
    return parts[0].keys() == parts[1].keys() and all(
        a.shape == parts[1][path].shape and torch.allclose(a, parts[1][path], equal_nan=True) for path, a in parts[0].items()
    )
