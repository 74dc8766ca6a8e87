"""Weights of a model as a tensor file, and their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError
from pmq.core.tensors import TensorFile

#: prefix of tensors that the module has and its captured graph lacks or stores differently
OF_MODULE = "module/"


def parameters_file(model: nn.Module) -> TensorFile:
    """Return all parameters of a model as a tensor file."""
    return TensorFile.of({name: p.detach().cpu().contiguous().numpy() for name, p in model.named_parameters()})


def both_file(module: nn.Module, model: nn.Module) -> TensorFile:
    """Return all parameters of ``model``, captured from ``module``, and the module's tensors that cannot be derived from them.

    A graph has batch norms folded into the convolutions before them, and other names for some weights.
    """
    parameters = dict(model.named_parameters())
    arrays = {name: p.detach().cpu().contiguous().numpy() for name, p in parameters.items()}
    for name, value in module.state_dict().items():
        same = parameters.get(name)
        if isinstance(value, Tensor) and not (same is not None and same.data_ptr() == value.data_ptr()):
            arrays[f"{OF_MODULE}{name}"] = value.detach().cpu().contiguous().numpy()
    return TensorFile.of(arrays)


@torch.no_grad()
def fill_module(module: nn.Module, arrays: Mapping[str, Any]) -> None:
    """Load tensors that :func:`both_file` stored into a module of the same architecture, in place.

    Raises:
        PmqError: a tensor is missing or has another shape.
    """
    for name, value in module.state_dict().items():
        stored = arrays.get(f"{OF_MODULE}{name}", arrays.get(name))
        if not isinstance(value, Tensor) or (stored is None and not value.is_floating_point()):
            continue  # the module recomputes its indices and counters
        if stored is None:
            raise PmqError(f"the allocation's tensors have no {name!r}; pass the model that the allocation is of")
        if tuple(stored.shape) != tuple(value.shape):
            raise PmqError(f"tensor {name!r} of the allocation has shape {tuple(stored.shape)}, not {tuple(value.shape)}")
        value.copy_(torch.from_numpy(stored))


def weights_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of the names, shapes and values of the state dict."""
    digest = hashlib.sha256()
    tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        if tensor.ndim or tensor.is_floating_point():  # scalar integers count training steps and do not affect outputs
            digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
