"""Weights of a model: by what they are told from others, and as a file."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from pmq.core.tensors import TensorFile


def parameters_file(model: nn.Module) -> TensorFile:
    """All parameters of a model."""
    return TensorFile.of({name: p.detach().cpu().contiguous().numpy() for name, p in model.named_parameters()})


def weights_sha256(model: nn.Module) -> str:
    """Hash names, shapes and values of the state dict."""
    digest = hashlib.sha256()
    tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        if tensor.ndim or tensor.is_floating_point():  # counters of training steps don't tell weights apart
            digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
