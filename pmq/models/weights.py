"""Weights of a model: by what they are told from others, and as a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError
from pmq.core.tensors import TensorFile

#: before the name of a tensor that the module has and its captured graph has not, or has otherwise
OF_MODULE = "module/"


def parameters_file(model: nn.Module) -> TensorFile:
    """All parameters of a model."""
    return TensorFile.of({name: p.detach().cpu().contiguous().numpy() for name, p in model.named_parameters()})


def both_file(module: nn.Module, model: nn.Module) -> TensorFile:
    """All parameters of ``model``, a graph captured of ``module``; and what else the module holds that they do not tell.

    A graph has the norms behind convolutions folded into these, and calls some weights otherwise.
    """
    own = dict(model.named_parameters())
    arrays = {name: p.detach().cpu().contiguous().numpy() for name, p in own.items()}
    for name, value in module.state_dict().items():
        same = own.get(name)
        if isinstance(value, Tensor) and not (same is not None and same.data_ptr() == value.data_ptr()):
            arrays[f"{OF_MODULE}{name}"] = value.detach().cpu().contiguous().numpy()
    return TensorFile.of(arrays)


@torch.no_grad()
def fill_module(module: nn.Module, arrays: Mapping[str, Any]) -> None:
    """Fill a module, in place, with what :func:`both_file` kept of one like it.

    Raises:
        PmqError: a tensor is missing, or of another shape.
    """
    for name, value in module.state_dict().items():
        kept = arrays.get(f"{OF_MODULE}{name}", arrays.get(name))
        if not isinstance(value, Tensor) or (kept is None and not value.is_floating_point()):
            continue  # indices and counters that the module makes anew
        if kept is None:
            raise PmqError(f"the allocation's tensors have no {name!r}: they are of another model")
        if tuple(kept.shape) != tuple(value.shape):
            raise PmqError(f"tensor {name!r} of the allocation has shape {tuple(kept.shape)}, not {tuple(value.shape)}")
        value.copy_(torch.from_numpy(kept))


def weights_sha256(model: nn.Module) -> str:
    """Hash names, shapes and values of the state dict."""
    digest = hashlib.sha256()
    tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        if tensor.ndim or tensor.is_floating_point():  # counters of training steps don't tell weights apart
            digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
