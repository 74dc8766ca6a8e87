"""Tokens that nothing reads behind the last attention."""

from __future__ import annotations

import torch

from pmq.graph import CapturedModel, captured, take_inventory
from pmq.graph.unread_tokens import without_unread_tokens
from tests.conftest import make_tiny

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _shorter(model: CapturedModel, prefix: int) -> CapturedModel:
    graph, modules = model.program.graph, {name: model.get_submodule(name) for name in model.program.calls}
    shorter = without_unread_tokens(graph, modules, prefix)
    if shorter is graph:
        return model
    tensors = {str(node.target): model.tensor(str(node.target)) for node in graph.nodes if node.op == "get_attr"}
    return CapturedModel(shorter, modules, tensors)


def test_the_last_block_answers_the_class_token_alone() -> None:
    model = captured(make_tiny(), IMAGES[:1])
    shorter = _shorter(model, 1)
    with torch.no_grad():
        torch.testing.assert_close(shorter(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)
    inventory, parts = (
        take_inventory(shorter, IMAGES[:1]),
        ("attn.qkv.input", "attn.q", "attn.k", "attn.softmax", "mlp.fc1.input"),
    )
    assert [inventory[f"blocks.1.{part}"].shape[0] for part in parts] == [17, 1, 17, 2, 1]  # two heads
    assert [inventory[f"blocks.0.{part}"].shape[0] for part in parts] == [17, 17, 17, 34, 17]


def test_a_model_that_reads_all_tokens_stays_as_it_is() -> None:
    pooled = captured(make_tiny(global_pool="avg"), IMAGES[:1])
    assert _shorter(pooled, 1) is pooled
    whole = captured(make_tiny(), IMAGES[:1])
    assert _shorter(whole, 0) is whole
