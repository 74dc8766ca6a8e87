"""Normalization of users' modules: a plain copy in FP32 and evaluation mode, without wrappers or shared weights."""

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
from pmq.models.shared import untie

#: attributes of a module that contain its hooks
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
#: packages whose modules store their weights as integers
_QUANTIZED = ("torch.ao.nn.quantized", "torch.nn.quantized")
#: exceptions that copying a module raises where it cannot be copied
_NOT_COPIED = (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, pickle.PickleError)


@torch.inference_mode(False)
def adopt(model: nn.Module, image: Tensor | None = None) -> nn.Module:
    """Return an unwrapped copy of ``model`` in FP32 and evaluation mode; a message reports each difference.

    Wrappers are removed, parametrizations are merged, gradient checkpointing is switched off, shared weights become separate
    copies, and hooks are removed. Removing hooks must not change the output for ``image`` ``(1, C, H, W)``; without it, a zero
    image of the model's input size is used. ``model`` itself stays unchanged.

    Raises:
        PmqError: ``model`` is no module, cannot be copied, or does not have plain floating-point parameters on one device.
    """
    if not isinstance(model, nn.Module):
        raise PmqError(f"a model must be a torch module or one of timm's names, not {type(model).__name__}")
    _check(model)
    changes = [f"without {type(m).__name__}" for m in model.modules() if _inner(m) is not None]
    changes += ["not compiled" for m in model.modules() if m._compiled_call_impl is not None]  # copies are not compiled
    copied = _copied(model).eval()
    _merge(copied, changes)
    for module in copied.modules():
        for name in ("grad_checkpointing", "gradient_checkpointing"):
            if getattr(module, name, None) is True:
                setattr(module, name, False)
                changes.append("gradient checkpointing is off")
    types = {str(p.dtype).removeprefix("torch.") for p in model.parameters()} - {"float32"}
    changes += [f"{', '.join(sorted(types))} converted to FP32"] if types else []
    image = torch.zeros(1, *input_size(copied)) if image is None else image.detach()
    image = image.to(next(copied.parameters()).device)
    _drop_hooks(copied, image, changes)
    shared = untie(copied, image)
    changes += [f"shared weights are separate copies with separate bit-widths: {', '.join(shared)}"] if shared else []
    for parameter in copied.parameters():
        parameter.requires_grad_(True)
    for change in dict.fromkeys(changes):
        message(f"copy of the model: {change}")
    return copied


def _inner(module: nn.Module) -> nn.Module | None:
    """Return the module inside a wrapper of ``torch.compile`` or data parallelism; None if ``module`` is no such wrapper."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return module.module
    inner = getattr(module, "_orig_mod", None)  # of torch.compile
    return inner if isinstance(inner, nn.Module) else None


def _check(model: nn.Module) -> None:
    kind = type(model).__name__
    _check_tree(model, ())
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise PmqError(
            f"model {kind} is a TorchScript program, whose layers cannot be replaced; pass the module it was scripted from"
        )
    parameters = dict(model.named_parameters())
    if not parameters:
        raise PmqError(f"model {kind} has no parameters; pass a model that has weights to quantize")
    for name, tensor in (*parameters.items(), *model.named_buffers()):
        if is_lazy(tensor):
            raise PmqError(f"{name!r} of model {kind} is not initialised yet; run the model on an image first")
        if tensor.is_meta:
            raise PmqError(f"{name!r} of model {kind} has no values (device meta); load its weights first")
    for name, tensor in parameters.items():
        if not tensor.is_floating_point() or tensor.layout != torch.strided or type(tensor.data) is not Tensor:
            met = str(tensor.dtype) if type(tensor.data) is Tensor else type(tensor.data).__name__
            raise PmqError(
                f"{name!r} of model {kind} is {met}, already quantized or distributed; pass plain floating-point weights"
            )
    packed = next((name for name, module in model.named_modules() if type(module).__module__.startswith(_QUANTIZED)), None)
    if packed is not None:
        raise PmqError(f"module {packed!r} of model {kind} is already quantized; pass the FP32 model")
    check_one_device(p.device for p in parameters.values())


def _check_tree(module: nn.Module, above: tuple[nn.Module, ...]) -> None:
    for name, child in module.named_children():
        if child in (*above, module):
            raise PmqError(
                f"module {type(child).__name__} contains itself, as {name!r} of {type(module).__name__}; remove that reference"
            )
        _check_tree(child, (*above, module))


def check_one_device(devices: Iterable[torch.device]) -> None:
    """Check that all ``devices`` of a model's parameters are the same.

    Raises:
        PmqError: the parameters are on several devices.
    """
    names = sorted({str(device) for device in devices})
    if len(names) > 1:
        raise PmqError(f"parameters are on several devices, {', '.join(names)}; move the model to one of them")


def _copied(model: nn.Module) -> nn.Module:
    """Copy a model without its wrappers; its tensors are cloned, detached and, with the parameters' types, converted to FP32."""
    types = {p.dtype for p in model.parameters()}
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in _tensors(vars(module)):
            clone = tensor.detach().to(torch.float32 if tensor.dtype in types else tensor.dtype, copy=True)
            memo.setdefault(id(tensor), nn.Parameter(clone) if isinstance(tensor, nn.Parameter) else clone)
    try:
        for module in reversed(list(model.modules())):
            if (inner := _inner(module)) is not None:
                memo[id(module)] = copy.deepcopy(inner, memo)
        return copy.deepcopy(model, memo)
    except (*_NOT_COPIED, RecursionError) as error:
        raise PmqError(
            f"model {type(model).__name__} cannot be copied: {one_line(error)}; remove the attribute that cannot be copied"
        ) from None


def _tensors(attributes: dict[str, Any]) -> list[Tensor]:
    """Return all tensors in a module's attributes and their containers, without those of submodules."""
    tensors, left, seen = [], [attributes], set()
    while left:
        value: Any = left.pop()
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            left += value.values() if isinstance(value, dict) else value
    return tensors


def _merge(model: nn.Module, changes: list[str]) -> None:
    """Replace weights that are recomputed in each forward pass by plain ones, in place; add a line for each to ``changes``."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                changes.append(f"parametrizations ({type(module.parametrizations[name][0]).__name__}) are merged")  # type: ignore[index]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        for hook in list(module._forward_pre_hooks.values()):
            remove: Callable[[nn.Module, str], Any]
            for kind, remove in ((WeightNorm, remove_weight_norm), (SpectralNorm, remove_spectral_norm)):
                if isinstance(hook, kind):
                    changes.append(f"{kind.__name__} is merged")
                    remove(module, hook.name)
            if isinstance(hook, prune.BasePruningMethod):
                changes.append("masks of torch.nn.utils.prune are merged")
                prune.remove(module, hook._tensor_name)


def _drop_hooks(model: nn.Module, image: Tensor, changes: list[str]) -> None:
    """Remove all hooks except :class:`SelectedOutput`, in place; add a line to ``changes``.

    Raises:
        PmqError: removing them changes the output for ``image``.
    """
    removed = [
        (name, hooks, key)
        for name, module in model.named_modules()
        for hooks in (getattr(module, kind) for kind in _HOOKS)
        for key, hook in hooks.items()
        if not isinstance(hook, SelectedOutput)
    ]
    if not removed:
        return
    before = run(model, image)
    for _, hooks, key in removed:
        del hooks[key]
    if not _equal(before, run(model, image)):
        places = ", ".join(dict.fromkeys(repr(name) for name, *_ in removed))
        raise PmqError(f"hooks of modules {places} change the model's output; pass a model that computes it in its forward")
    changes.append(f"without its hooks ({len(removed)})")


def _equal(one: Any, other: Any) -> bool:
    parts = [dict(tensors_of(output)) for output in (one, other)]
    return parts[0].keys() == parts[1].keys() and all(
        a.shape == parts[1][path].shape and torch.allclose(a, parts[1][path], equal_nan=True) for path, a in parts[0].items()
    )
