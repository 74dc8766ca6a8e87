"""Multiply-accumulates of a model as torch's dispatcher counts them, independently of the captured graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def count_macs(model: nn.Module, image: Tensor) -> int:
    """Count the multiply-accumulates of ``model`` for ``image`` ``(1, C, H, W)``."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:  # torch's counter would hook its gradient
        parameter.requires_grad_(False)
    try:
        with decomposed_attention():
            return macs_of(lambda: model(image))
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def macs_of(compute: Callable[[], object]) -> int:
    """Count the multiply-accumulates of a function call."""
    with FlopCounterMode(display=False, custom_mapping=_VECTORS) as counter:
        compute()
    return int(sum(counter.flop_counts["Global"].values()) // 2)


@contextmanager
def decomposed_attention() -> Iterator[None]:
    """Make torch's attention functions and modules run as separate products, which can be counted; callers stay unchanged."""
    with sdpa_kernel(SDPBackend.MATH), without_fast_path():
        yield


@contextmanager
def unfused(model: nn.Module) -> Iterator[None]:
    """Run attention as separate products: in timm's modules, torch's function, and torch's module."""
    fused: list[Any] = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False
    try:
        with decomposed_attention():
            yield
    finally:
        for module in fused:
            module.fused_attn = True


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Disable the fast path of ``nn.MultiheadAttention``, which is a single fused function."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _matrix_by_vector(*shapes: Any, out_shape: Any = None, **options: Any) -> int:
    """Return the FLOPs of a matrix-vector product: twice the elements of the second-to-last operand, the matrix."""
    return 2 * prod(shapes[-2])


#: FLOP counters of products with a vector, which torch lacks
_VECTORS = {operator: _matrix_by_vector for operator in (torch.ops.aten.mv, torch.ops.aten.addmv, torch.ops.aten.dot)}
