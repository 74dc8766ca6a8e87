"""Cut a model into stages, so that a forward pass can restart at the one that changed.

Stage 0 is the stem (patch and position embedding), then one stage a block, then the tail (norm, pooling, head). The
stages applied one after the other are the model. What is no plain sequence of blocks is one single stage: slower to
restart, but right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Stage = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Stages:
    """Callables ``x -> x`` that compose to the model, and the module names of the blocks (all but first and last)."""

    calls: tuple[Stage, ...]
    prefixes: list[str]

    def run(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Apply stages ``start`` to ``stop`` (exclusive)."""
        for call in self.calls[start:stop]:
            x = call(x)
        return x

    def __len__(self) -> int:
        return len(self.calls)


def split_stages(model: nn.Module) -> Stages:
    """Cut ``model``, whose modules may be replaced later: each stage looks its modules up when it is called."""
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    # A subclass that computes something else around its blocks (not just in them) must not be cut like its parent.
    for parent, cut in ((VisionTransformer, _vit_stages), (SwinTransformer, _swin_stages)):
        if isinstance(model, parent) and all(
            getattr(type(model), f) is getattr(parent, f) for f in ("forward", "forward_features")
        ):
            return cut(model)
    return Stages((model,), [])


def _vit_stages(model: nn.Module) -> Stages:
    m: Any = model  # timm's attributes are not typed

    def stem(x: Tensor) -> Tensor:
        out: Tensor = m.norm_pre(m.patch_drop(m._pos_embed(m.patch_embed(x))))
        return out

    def block(i: int) -> Stage:
        return lambda x: m.blocks[i](x)

    def tail(x: Tensor) -> Tensor:
        out: Tensor = m.forward_head(m.norm(x))
        return out

    n = len(m.blocks)
    return Stages((stem, *(block(i) for i in range(n)), tail), [f"blocks.{i}" for i in range(n)])


def _swin_stages(model: nn.Module) -> Stages:
    m: Any = model
    names = [
        name
        for s, layer in enumerate(m.layers)
        for name in (f"layers.{s}.downsample", *(f"layers.{s}.blocks.{b}" for b in range(len(layer.blocks))))
    ]

    def part(name: str) -> Stage:
        return lambda x: m.get_submodule(name)(x)

    def tail(x: Tensor) -> Tensor:
        out: Tensor = m.forward_head(m.norm(x))
        return out

    return Stages((lambda x: m.patch_embed(x), *(part(n) for n in names), tail), names)
