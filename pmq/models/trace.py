"""One forward pass, watched: who is called with what, and how many multiply-accumulates each module does itself.

The multiply-accumulates are those that torch counts below all modules, so that they know nothing of components. Nothing is
fused meanwhile: a fused product is one that nobody sees.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

#: how something is multiplied: by one matrix, many matrices at once, or as a convolution
Way = Literal["matrix", "batch", "convolution"]
_WAYS: dict[str, Way] = {"bmm": "batch", "baddbmm": "batch", "convolution": "convolution", "_convolution": "convolution"}


@dataclass(frozen=True)
class Call:
    """One call of a module."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    @property
    def input(self) -> Tensor:
        """The first tensor that it was given, by place or by name."""
        return next(value for value in (*self.args, *self.kwargs.values()) if isinstance(value, Tensor))


#: multiply-accumulates of each module that are of none within it; those of functions the model itself calls are ``""``'s
Macs = dict[str, Counter[Way]]


@torch.no_grad()
def watch(model: nn.Module, image: Tensor, seen: Callable[[str, nn.Module, Call], None]) -> Macs:
    """Run ``model`` on ``image`` ``(1, C, H, W)``; let ``seen`` see each call of a module by name, and count."""
    macs: Macs = defaultdict(Counter)
    counter = FlopCounterMode(display=False, custom_mapping=_VECTORS)
    running, before = [""], Counter[Way]()

    def count() -> None:
        """Credit what was multiplied since the last time to the innermost module that is running."""
        nonlocal before
        now = Counter[Way]()
        for operator, flops in counter.flop_counts["Global"].items():
            now[_WAYS.get(operator.__name__, "matrix")] += flops // 2
        macs[running[-1]] += now - before
        before = now

    def enter(name: str) -> None:
        count()
        running.append(name)

    def leave(name: str, module: nn.Module, call: Call) -> None:
        count()
        running.pop()
        seen(name, module, call)

    with ExitStack() as stack:
        for name, module in model.named_modules():
            entering = module.register_forward_pre_hook(lambda _, args, name=name: enter(name))
            leaving = module.register_forward_hook(
                lambda m, args, kwargs, out, name=name: leave(name, m, Call(args, kwargs, out)), with_kwargs=True
            )
            stack.callback(entering.remove)
            stack.callback(leaving.remove)
        for parameter in [p for p in model.parameters() if p.requires_grad]:  # torch's counter would hook its gradient
            stack.callback(parameter.requires_grad_, True)
            parameter.requires_grad_(False)
        stack.enter_context(unfused(model))
        with counter:
            model(image)
    return macs


@contextmanager
def unfused(model: nn.Module) -> Iterator[None]:
    """Compute attention product by product: timm's, torch's function, and torch's module."""
    fused: list[Any] = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    fast = torch.backends.mha.get_fastpath_enabled()
    for module in fused:
        module.fused_attn = False
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module in fused:
            module.fused_attn = True


def _matrix_by_vector(*shapes: Any, out_shape: Any = None, **options: Any) -> int:
    """Twice the values of the matrix, which is the last operand but one."""
    return 2 * prod(shapes[-2])


#: products with a vector, which torch does not count
_VECTORS = {operator: _matrix_by_vector for operator in (torch.ops.aten.mv, torch.ops.aten.addmv, torch.ops.aten.dot)}
