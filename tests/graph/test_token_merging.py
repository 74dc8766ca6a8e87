"""Tokens that are merged between the blocks of a model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pmq.core.errors import PmqError
from pmq.graph import CapturedModel, captured, take_inventory
from pmq.graph.merge_modules import MergeTokens
from pmq.graph.token_merging import merge_tokens, mergeable_blocks, prefix_tokens
from pmq.models.torchvision_ops import ensure_torchvision
from tests.conftest import make_tiny

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _merged_by_loops(x: Tensor, read: Tensor, size: Tensor, count: int, prefix: int) -> tuple[Tensor, Tensor]:
    """Merge the tokens ``(N, C)`` of one image, to which the class token pays attention ``read``, pair by pair."""
    centred = x - x.mean(-1, keepdim=True)
    distance = torch.cdist(centred, centred).square()
    seeking, others = range(prefix, len(x), 2), range(prefix + 1, len(x), 2)
    best = {i: min(others, key=lambda j: float(distance[i, j])) for i in seeking}
    merged = sorted(seeking, key=lambda i: float(distance[i, best[i]] * read[i]))[:count]
    sums, sizes = x * size[:, None], size.clone()
    for i in merged:
        sums[best[i]] += x[i] * size[i]
        sizes[best[i]] += size[i]
    kept = [t for t in range(len(x)) if t not in merged]
    return (sums / sizes[:, None])[kept], sizes[kept]


@pytest.mark.parametrize(("n_tokens", "prefix"), [(17, 1), (16, 1), (12, 0), (15, 2)])
def test_pairs_that_lose_least_become_their_weighted_means(n_tokens: int, prefix: int) -> None:
    x, size = torch.randn(2, n_tokens, 8), torch.randint(1, 4, (2, n_tokens)).float()
    q, k = torch.randn(2, 2, 2, n_tokens, 4)
    tokens, sizes = MergeTokens(3, prefix, 0.5)(x, q, k, size[..., None])
    once = MergeTokens(3, prefix, 0.5)
    for one, other in zip(once(x, q, k), once(x, q, k, torch.ones_like(size)[..., None]), strict=True):
        torch.testing.assert_close(one, other)
    for image in range(2):
        read = sum((0.5 * q[image, head, 0] @ k[image, head].T).softmax(-1) for head in range(2)) / 2
        wanted, wanted_sizes = _merged_by_loops(x[image], read, size[image], 3, prefix)
        torch.testing.assert_close(tokens[image, :prefix], x[image, :prefix])
        order, wanted_order = (
            rows.sum(-1).argsort() for rows in (tokens[image], wanted)
        )  # tokens after the prefix have no order
        torch.testing.assert_close(tokens[image][order], wanted[wanted_order], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(sizes[image, order, 0], wanted_sizes[wanted_order])


def _by_hand(model: nn.Module, images: Tensor, merged: dict[int, int]) -> Tensor:
    """Run timm's ViT with merging, and with attention that weighs tokens by their sizes."""
    x, size = model._pos_embed(model.patch_embed(images)), None  # type: ignore[operator]
    for i, block in enumerate(model.blocks):  # type: ignore[arg-type]
        attention, normed = block.attn, block.norm1(x)
        shape = (len(x), -1, 3, attention.num_heads, attention.head_dim)
        q, k, v = attention.qkv(normed).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
        logits = q @ k.mT * attention.scale + (0 if size is None else size.log().mT[:, None])
        x = x + attention.proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
        if i in merged:
            x, size = MergeTokens(merged[i], 1, attention.scale)(x, q, k, size)
    return model.head(model.norm(x)[:, 0])  # type: ignore[operator]


def test_the_graph_computes_what_is_written_by_hand_in_all_stages() -> None:
    module = make_tiny(depth=4)
    model = captured(module, IMAGES[:1])
    merged = merge_tokens(model, {"blocks.2": 4, "blocks.0": 5}, prefix_tokens(model))
    with torch.no_grad():
        wanted, whole = _by_hand(module, IMAGES, {0: 5, 2: 4}), model(IMAGES)
        torch.testing.assert_close(merged(IMAGES), wanted, rtol=1e-4, atol=1e-4)
        for stage in range(1, len(merged.program.stages)):
            torch.testing.assert_close(merged.run(merged.run(IMAGES, 0, stage), stage), merged(IMAGES), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(wanted, whole, atol=1e-3)
        torch.testing.assert_close(model(IMAGES), whole, rtol=0, atol=0)  # the model that it was made from
    assert len(merged.program.stages) == len(model.program.stages)
    inventory = take_inventory(merged, IMAGES[:1])
    rows = [inventory[f"blocks.{i}.mlp.fc1.input"].shape[0] for i in range(4)]
    assert rows == [17, 12, 12, 1]  # nothing reads the patches of the last block
    torch.testing.assert_close(copy.deepcopy(merged)(IMAGES), merged(IMAGES), rtol=0, atol=0)


def _captured(name: str, **options: object) -> CapturedModel:
    ensure_torchvision()
    import timm

    settings = {"num_classes": 5} | options
    size = int(settings.get("img_size", 32))  # type: ignore[call-overload]
    return captured(timm.create_model(name, **settings).eval(), torch.randn(1, 3, size, size))


def test_tokens_at_the_front_are_known_and_never_merged() -> None:
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    assert prefix_tokens(_captured("deit_tiny_patch16_224", **small)) == 1
    assert prefix_tokens(_captured("deit_tiny_distilled_patch16_224", **small)) == 2
    assert prefix_tokens(_captured("vit_small_patch14_reg4_dinov2", **small)) == 5
    model = _captured("deit_tiny_distilled_patch16_224", **small)
    assert merge_tokens(model, {"blocks.0": 8}, 2)(IMAGES).shape == (3, 5)


def test_what_cannot_be_merged_is_refused_in_one_line() -> None:
    model = captured(make_tiny(), IMAGES[:1])
    assert list(mergeable_blocks(model)) == ["blocks.0"]  # behind the last block nothing would be saved
    with pytest.raises(PmqError, match=r"of 17 tokens cannot be merged behind 'blocks.0'; merge from 1 to 8"):
        merge_tokens(model, {"blocks.0": 9}, 1)
    with pytest.raises(PmqError, match=r"cannot be merged behind 'layers.7'; this model has the blocks blocks.0"):
        merge_tokens(model, {"layers.7": 1}, 1)
    pooled = captured(make_tiny(global_pool="avg", class_token=False), IMAGES[:1])
    with pytest.raises(PmqError, match=r"'blocks.0', because .*mean.* depends on their number"):
        merge_tokens(pooled, {"blocks.0": 2}, 0)
    swin = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2)}
    with pytest.raises(PmqError, match="no block of this model ends in a plain sequence of tokens"):
        mergeable_blocks(_captured("swin_tiny_patch4_window7_224", **swin))
