"""What of a model can be removed: channels that live between two layers, and nobody else reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from pmq.core.pruning import Kind

#: the layer that a ViT's residual stream begins at
EMBEDDING = "patch_embed.proj"


@dataclass(frozen=True)
class Unit:
    """Channels of which any may be removed.

    Attributes:
        name: of the MLP, of the attention, or of the layer that begins the residual stream.
        kind: see :class:`pmq.core.pruning.PrunedUnit`.
        size: channels; of an attention those of all heads.
        heads: that they divide into.
        whole: heads may be removed as a whole only.
    """

    name: str
    kind: Kind
    size: int
    heads: int = 1
    whole: bool = False

    @property
    def can_mix(self) -> bool:
        """Whether the channels of its heads may be mixed, which leaves an attention without norms as it is."""
        return self.kind == "attention" and not self.whole

    @property
    def last(self) -> str:
        """The layer that reads the channels."""
        return f"{self.name}.{'fc2' if self.kind == 'hidden' else 'proj'}"


def prunable_units(model: nn.Module, embedding: bool = False) -> list[Unit]:
    """List MLPs and attentions of blocks in model order; the residual stream of a ViT, which all of it reads, if asked for.

    An MLP that has a gate or a norm between its layers, or an attention with a norm over all heads, is none.
    """
    from timm.models.vision_transformer import VisionTransformer

    found = []
    for name, module in model.named_modules():
        block = model.get_submodule(name.rpartition(".")[0])
        if _is_mlp(module) and hasattr(block, "attn"):
            found.append(Unit(name, "hidden", module.fc1.out_features))
        elif _is_attention(module):
            normed = any(not isinstance(getattr(module, n, nn.Identity()), nn.Identity) for n in ("q_norm", "k_norm"))
            found.append(Unit(name, "attention", module.proj.in_features, int(module.num_heads), whole=normed))
    first = dict(model.named_modules()).get(EMBEDDING)
    if embedding and isinstance(model, VisionTransformer) and isinstance(first, nn.Conv2d | nn.Linear):  # of some it is none
        found.append(Unit(EMBEDDING, "embedding", first.weight.shape[0]))
    return found


def _is_mlp(module: Any) -> bool:
    layers = [getattr(module, n, None) for n in ("fc1", "fc2")]
    if not all(isinstance(layer, nn.Linear) for layer in layers):
        return False
    own = sum(p.numel() for layer in layers for p in layer.parameters())  # type: ignore[union-attr]
    plain = own == sum(p.numel() for p in module.parameters())
    return bool(plain and module.fc1.out_features == module.fc2.in_features)


def _is_attention(module: Any) -> bool:
    from timm.layers import Attention
    from timm.models.swin_transformer import WindowAttention

    if type(module) is WindowAttention:
        return True
    if type(module) is not Attention:
        return False
    return isinstance(module.norm, nn.Identity) and module.gate is None
