"""Count multiply-accumulates of a model as torch counts them, below all modules: an account that knows nothing of a graph."""

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
    """Count all that ``model`` multiplies for ``image`` ``(1, C, H, W)``."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:  # torch's counter would hook its gradient
        parameter.requires_grad_(False)
    try:
        with by_products():
            return macs_of(lambda: model(image))
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def macs_of(compute: Callable[[], object]) -> int:
    """Count all that a function multiplies."""
    with FlopCounterMode(display=False, custom_mapping=_VECTORS) as counter:
        compute()
    return int(sum(counter.flop_counts["Global"].values()) // 2)


@contextmanager
def by_products() -> Iterator[None]:
    """Let torch's functions and modules of attention call products, which can be counted; whoever calls them does as always."""
    with sdpa_kernel(SDPBackend.MATH), without_fast_path():
        yield


@contextmanager
def unfused(model: nn.Module) -> Iterator[None]:
    """Compute attention product by product: timm's, torch's function, and torch's module."""
    fused: list[Any] = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False
    try:
        with by_products():
            yield
    finally:
        for module in fused:
            module.fused_attn = True


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Let ``nn.MultiheadAttention`` call operators rather than one function that does all of it."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _matrix_by_vector(*shapes: Any, out_shape: Any = None, **options: Any) -> int:
    """Twice the values of the matrix, which is the last operand but one."""
    return 2 * prod(shapes[-2])


#: products with a vector, which torch does not count
_VECTORS = {operator: _matrix_by_vector for operator in (torch.ops.aten.mv, torch.ops.aten.addmv, torch.ops.aten.dot)}
