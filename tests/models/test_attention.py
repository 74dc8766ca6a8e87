"""What is taken for q, k, softmax and v of an attention is what it multiplies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pmq.models.attention import Layout, Unexplained, explain
from pmq.models.torchvision_ops import ensure_torchvision
from pmq.models.trace import Call

X = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))


class Odd(nn.Module):
    """An attention that looks like timm's, and computes something else in one place."""

    fused_attn, num_heads = False, 3

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how, self.qkv, self.proj, self.attn_drop = how, nn.Linear(12, 36), nn.Linear(12, 12), nn.Dropout(0.0)
        self.q_norm = nn.LayerNorm(12) if how == "norm of all heads" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        made = nn.functional.linear(x, self.qkv.weight) if self.how == "no module" else self.qkv(x)
        if self.how == "heads first":
            q, k, v = made.reshape(batch, tokens, 3, 3, 4).permute(3, 0, 2, 1, 4)
        else:
            q, k, v = made.reshape(batch, tokens, 3, 3, 4).permute(2, 0, 3, 1, 4)
        if self.how == "norm of all heads":
            q = self.q_norm(q.transpose(1, 2).flatten(2)).reshape(batch, tokens, 3, 4).transpose(1, 2)
        places = torch.arange(1.0, tokens + 1)[:, None]
        q = q * places.cos() if self.how == "rotated" else q
        scores = q @ k.mT / 2
        scores = scores + (q @ q.mT if self.how == "bias of q" else places)
        softmax = scores.softmax(-1).flip(-1) if self.how == "flipped" else scores.softmax(-1)
        softmax = torch.full_like(softmax, 0.2) if self.how == "even" else softmax
        if self.how == "flat":
            softmax = self.attn_drop(softmax.flatten(0, 1)).reshape(softmax.shape)
        elif self.how != "no drop":
            softmax = self.attn_drop(softmax)
        softmax = softmax.roll(1, 1) if self.how == "talking heads" else softmax
        mixed = (softmax @ v).transpose(1, 2).reshape(batch, tokens, -1)
        return self.proj(mixed.relu() if self.how == "relu" else mixed)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("heads first", "v is not"),
        ("talking heads", "v is not"),
        ("relu", "v is not"),
        ("rotated", "q and k are not"),
        ("bias of q", "q and k are not"),
        ("flipped", "q and k are not"),
        ("even", "q and k are not"),
        ("norm of all heads", "normed before they are divided"),
        ("flat", "softmax is not one of all tokens"),
        ("no drop", "attn_drop is not called"),
        ("no module", "qkv is not called as a module"),
    ],
)
def test_others_are_told_apart(how: str, reason: str) -> None:
    with pytest.raises(Unexplained, match=reason):
        explain(Odd(how), Call((X,), {}, None))


def test_a_bias_of_positions_explains_itself() -> None:
    assert explain(Odd(""), Call((), {"x": X}, None)) == Layout(2, 3, 5, 4)


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"scale_norm": True}, {"gated": True}, {"attn_head_dim": 8}])
@pytest.mark.parametrize("given", [{}, {"is_causal": True}, {"attn_mask": torch.eye(5).bool() | (torch.arange(5) < 3)}])
def test_timms_own_is_proved_with_norms_gates_and_masks(options: dict[str, Any], given: dict[str, Any]) -> None:
    ensure_torchvision()
    from timm.layers import Attention

    attention = Attention(12, num_heads=3, norm_layer=nn.LayerNorm, **options).eval()
    assert explain(attention, Call((X,), given, None)) == Layout(2, 3, 5, options.get("attn_head_dim", 4))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in attention.modules())


def test_one_token_attends_to_itself() -> None:
    assert explain(Odd(""), Call((X[:, :1],), {}, None)) == Layout(2, 3, 1, 4)
