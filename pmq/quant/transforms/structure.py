"""Where a model's LayerNorms, residual streams and attentions are, as far as they may be rewritten exactly."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from torch import Tensor, nn


@dataclass
class NormPair:
    """A LayerNorm and the Linears that read its output, and nobody else does."""

    norm: nn.LayerNorm
    readers: list[nn.Linear]


@dataclass
class ResidualStream:
    """What writes a residual stream of ``width`` channels, and the norms it is read through.

    Attributes:
        writers: Linears and convolutions whose output is added to the stream.
        tensors: parameters ``(..., width)`` added to it.
        pairs: the norms that read it; one over ``k * width`` channels reads ``k`` neighbours side by side.
    """

    width: int
    writers: list[nn.Linear | nn.Conv2d] = field(default_factory=list)
    tensors: list[nn.Parameter] = field(default_factory=list)
    pairs: list[NormPair] = field(default_factory=list)


def norm_pairs(model: nn.Module) -> list[NormPair]:
    """All pairs of a norm and its readers that are known to be exclusive."""
    found = [pair for module in model.modules() for pair in _pairs_of(module)]
    return found + _final_pair(model)


def _pairs_of(module: Any) -> list[NormPair]:
    from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
    from timm.models.vision_transformer import Block

    if type(module) is Block or (type(module) is SwinTransformerBlock and not _pads(module)):
        candidates = [(module.norm1, _part(module, "attn.qkv")), (module.norm2, _part(module, "mlp.fc1"))]
    elif type(module) is SwinTransformerBlock:  # zeros are padded after norm1, which a shift would not reach
        candidates = [(module.norm2, _part(module, "mlp.fc1"))]
    elif type(module) is PatchMerging:
        candidates = [(module.norm, module.reduction)]
    else:
        return []
    return [NormPair(n, [r]) for n, r in candidates if _plain_norm(n) and isinstance(r, nn.Linear)]


def _final_pair(model: Any) -> list[NormPair]:
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    if type(model) is SwinTransformer:
        norm, readers = model.norm, [model.head.fc]
    elif type(model) in (VisionTransformer, VisionTransformerDistilled) and getattr(model, "attn_pool", None) is None:
        norm = model.norm if isinstance(model.fc_norm, nn.Identity) else model.fc_norm
        readers = [model.head, *([model.head_dist] if hasattr(model, "head_dist") else [])]
    else:
        return []
    return [NormPair(norm, readers)] if _plain_norm(norm) and all(isinstance(r, nn.Linear) for r in readers) else []


def _part(block: Any, path: str) -> Any:
    """What a block has at a dotted path, or nothing: attentions and MLPs of other kinds are built into the same blocks."""
    return reduce(lambda module, name: getattr(module, name, None), path.split("."), block)


def _plain_norm(norm: Any) -> bool:
    return isinstance(norm, nn.LayerNorm) and norm.weight is not None and norm.bias is not None


def _pads(block: Any) -> bool:
    return any(size % window for size, window in zip(block.input_resolution, block.window_size, strict=True))


def residual_streams(model: nn.Module) -> list[ResidualStream]:
    """The streams that may be rotated: all that write to them and read from them is known."""
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    if type(model) in (VisionTransformer, VisionTransformerDistilled):
        return _vit_stream(model)
    if type(model) is SwinTransformer:
        return _swin_streams(model)
    return []


def _vit_stream(m: Any) -> list[ResidualStream]:
    final = _final_pair(m)
    pairs = [_pairs_of(block) for block in m.blocks]
    between = (m.norm_pre, _part(m, "patch_embed.norm"), *([m.norm] if not isinstance(m.fc_norm, nn.Identity) else []))
    if not final or not all(len(p) == 2 for p in pairs) or not all(isinstance(n, nn.Identity) for n in between):
        return []
    stream = ResidualStream(m.embed_dim, [_part(m, "patch_embed.proj")])
    names = ("cls_token", "reg_token", "dist_token", "pos_embed")
    stream.tensors = [t for n in names if (t := getattr(m, n, None)) is not None]
    for block, own in zip(m.blocks, pairs, strict=True):
        stream.writers += [_part(block, "attn.proj"), _part(block, "mlp.fc2")]
        stream.pairs += own
    stream.pairs += final
    return [stream] if _all_known(stream) else []


def _swin_streams(m: Any) -> list[ResidualStream]:
    """One a stage but the first, whose stream is written by a norm, which no rotation commutes with."""
    streams = []
    for index, layer in enumerate(m.layers):
        if index == 0:
            continue
        stream = ResidualStream(layer.blocks[0].dim, [layer.downsample.reduction])
        last = index + 1 == len(m.layers)
        pairs = [_pairs_of(block) for block in layer.blocks]
        after = _final_pair(m) if last else _pairs_of(m.layers[index + 1].downsample)
        if not after or not all(len(p) == 2 for p in pairs):
            continue
        for block in layer.blocks:
            stream.writers += [_part(block, "attn.proj"), _part(block, "mlp.fc2")]
        stream.pairs = [p for own in pairs for p in own] + after
        streams.append(stream)
    return [stream for stream in streams if _all_known(stream)]


def _all_known(stream: ResidualStream) -> bool:
    return all(isinstance(writer, nn.Linear | nn.Conv2d) for writer in stream.writers)


def scaled_writers(model: nn.Module) -> list[tuple[nn.Parameter, nn.Linear]]:
    """LayerScale gains and the Linears before them."""
    from timm.models.vision_transformer import Block, LayerScale

    return [
        (scale.gamma, linear)
        for block in model.modules()
        if type(block) is Block
        for scale, linear in ((block.ls1, _part(block, "attn.proj")), (block.ls2, _part(block, "mlp.fc2")))
        if isinstance(scale, LayerScale) and isinstance(linear, nn.Linear)
    ]


def set_(parameter: Tensor, value: Tensor) -> None:
    """Overwrite a parameter with what was computed in double precision."""
    parameter.data.copy_(value)
