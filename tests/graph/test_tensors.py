import pytest
import torch
from torch import nn

from pmq.core import Choice, PmqError
from pmq.cost import CostModel
from pmq.graph import captured, take_inventory, with_tensors
from pmq.graph.taps import TensorTap
from tests.conftest import Tiny, make_tiny


def test_every_tensor_between_operators_is_a_component(tiny: Tiny) -> None:
    whole = with_tensors(tiny.model)
    inventory = take_inventory(whole, tiny.images[:1])
    block = [name for name in inventory.names if name.startswith("blocks.0.")]
    assert block == [
        *("blocks.0.norm1.weight.tensor", "blocks.0.norm1.tensor", "blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.tensor"),
        *("blocks.0.attn.qk.tensor", "blocks.0.attn.softmax.tensor", "blocks.0.attn.av.tensor", "blocks.0.attn.proj.weight"),
        *("blocks.0.attn.proj.tensor", "blocks.0.add.tensor", "blocks.0.norm2.weight.tensor", "blocks.0.norm2.tensor"),
        *("blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc1.tensor", "blocks.0.mlp.act.tensor", "blocks.0.mlp.fc2.weight"),
        *("blocks.0.mlp.fc2.tensor", "blocks.0.add:2.tensor"),
    ]
    assert inventory.results["blocks.0.attn.qk"] == "blocks.0.attn.qk.tensor"
    assert inventory.source_of("blocks.0.attn.qkv") == "blocks.0.norm1.tensor"
    assert inventory.macs == tiny.inventory.macs
    kinds = {component.name: component.kind for component in tiny.inventory if component.slot == "weight"}
    assert {c.name: c.kind for c in inventory if c.slot == "weight"} == kinds
    with torch.no_grad():
        torch.testing.assert_close(whole(tiny.images), tiny.module(tiny.images), rtol=1e-4, atol=1e-4)


def test_weights_are_shared_with_the_model(tiny: Tiny) -> None:
    model = captured(make_tiny(), tiny.images[:1])
    whole = with_tensors(model)
    assert dict(whole.named_parameters()).keys() == dict(model.named_parameters()).keys()
    assert all(p is q for p, q in zip(whole.parameters(), model.parameters(), strict=True))
    assert whole.structure is model.program.graph


def test_tensors_cost_the_bits_that_are_written(tiny: Tiny) -> None:
    inventory = take_inventory(with_tensors(tiny.model), tiny.images[:1])
    eight = {c.name: Choice(bits=8) for c in inventory}
    costs = CostModel(inventory)
    sum_ = inventory["blocks.0.add.tensor"]
    wider = costs.bit_ops(eight | {sum_.name: Choice(bits=16)})
    assert wider - costs.bit_ops(eight) == 8 * sum_.numel
    macs = sum(operator.macs for operator in inventory.operators)
    written = sum(c.numel for c in inventory if c.slot == "tensor" and not c.fixed)
    assert costs.bit_ops(eight) == 64 * macs + 8 * written
    scale = inventory["blocks.0.norm1.weight.tensor"]
    assert costs.bit_ops(eight | {scale.name: Choice(bits=16)}) == costs.bit_ops(eight)
    assert costs.size_bytes(eight | {scale.name: Choice(bits=16)}) - costs.size_bytes(eight) == scale.numel


class Joined(nn.Module):
    """Parts that are joined, halves that change places, and a sum that is scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.one(x), self.two(x)], -1)
        x = torch.cat([x[..., 4:], x[..., :4]], -1) * 0.5
        return self.head(x + 1.0)


def test_moved_joined_and_scaled_tensors_share_a_grid() -> None:
    model = with_tensors(captured(Joined().eval(), torch.zeros(1, 8)))
    taps = [name for name, module in model.tapped.items() if isinstance(module, TensorTap)]
    assert taps == ["image:tensor", "cat:tensor", "add:tensor", "head:tensor"]
    inventory = take_inventory(model, torch.zeros(1, 8))
    assert inventory.results == {"one": "cat.tensor", "two": "cat.tensor", "head": "head.tensor"}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.cumsum(-1), "operator cumsum of 'odd'"),
        (lambda x: nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True), "is causal"),
        (lambda x: torch.einsum("bc,dc->bd", x[:, 0], x[:, 0]).sum(-1), "einsum"),
        (lambda x: nn.functional.rms_norm(x, (8,)), "operator .*of 'odd'"),
    ],
)
def test_what_has_no_form_in_integers_is_named(function: object, message: str) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(x)  # type: ignore[operator,no-any-return]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.odd = nn.Linear(8, 8), Odd()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.odd(self.layer(x))

    with pytest.raises(PmqError, match=message):
        with_tensors(captured(Model().eval(), torch.zeros(1, 5, 8)))
