"""What is captured computes the same, whatever writes into what, and is told from what is otherwise."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pmq
from pmq.core import PmqError
from pmq.graph import Attention, analyse, captured
from pmq.graph.fingerprint import fingerprint
from pmq.graph.record import graph_record
from tests.conftest import make_captured, make_tiny
from tests.shallow import shallow_searches

IMAGE = torch.zeros(1, 3, 4, 4)


class Written(nn.Module):
    """A layer around which something is written in place."""

    def __init__(self, how: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.how = nn.Linear(48, 12), how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.layer(x.flatten(1)))


def into_a_slice(x: Tensor) -> Tensor:
    y = x * 2
    y[:, :3] += 1
    y[:, 5] = x[:, 0]
    return y


def into_what_is_read_before(x: Tensor) -> Tensor:
    y = x + 1
    z = y * 3
    y.mul_(2)
    return y + z


def into_a_view(x: Tensor) -> Tensor:
    y = x + 1
    y.view(-1, 3, 4).transpose(1, 2).add_(1)
    return y


@pytest.mark.parametrize("how", [into_a_slice, into_what_is_read_before, into_a_view, lambda x: x.relu_().add_(1)])
@torch.no_grad()
def test_writing_in_place_is_captured(how: Callable[[Tensor], Tensor]) -> None:
    module = Written(how).eval()
    x = torch.randn(5, 3, 4, 4)
    torch.testing.assert_close(captured(module, x[:1])(x), module(x))


def test_copies_share_the_graph_and_no_weights() -> None:
    model = make_captured()
    copied = copy.deepcopy(model)
    assert copied.program is model.program
    with torch.no_grad():
        copied.get_submodule("head").weight.zero_()
    assert bool(model.get_submodule("head").weight.any())


def test_a_graph_is_captured_once_for_modules_that_differ_in_values_alone() -> None:
    one, other, wider = make_tiny(), make_tiny(), make_tiny(num_classes=5)
    with torch.no_grad():
        other.head.weight.zero_()
    keys = [fingerprint(module, torch.zeros(1, 3, 32, 32)) for module in (one, other, wider)]
    assert keys[0] is not None
    assert keys[0] == keys[1] != keys[2]
    other.blocks[0].attn.scale = 0.5
    assert fingerprint(other, torch.zeros(1, 3, 32, 32)) != keys[0]
    assert fingerprint(one, torch.zeros(1, 3, 16, 16)) != keys[0]
    other.blocks[0].attn.own = object()  # of which nobody knows what it does
    assert fingerprint(other, torch.zeros(1, 3, 32, 32)) is None
    one.head.register_forward_hook(lambda m, args, y: y)
    assert fingerprint(one, torch.zeros(1, 3, 32, 32)) is None


@torch.no_grad()
def test_a_known_graph_computes_with_the_other_modules_weights() -> None:
    one, other = make_tiny(), make_tiny()
    x = torch.randn(2, 3, 32, 32)
    other.head.weight.mul_(-1)
    captured(one, x[:1])
    torch.testing.assert_close(captured(other, x[:1])(x), other(x))


def test_what_cannot_be_followed_is_told_with_its_line() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(48, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x.flatten(1))
            return y * int(y.argmax())

    with pytest.raises(PmqError, match=r"cannot be captured as a graph \(.*test_capture\.py, line \d+\)"):
        captured(Counting().eval(), IMAGE)


@torch.no_grad()
def test_attention_written_out_is_attention() -> None:
    for settings in ({}, {"scale": 0.3}, {"causal": True}, {"grouped": True}):
        attention = Attention(**settings)  # type: ignore[arg-type]
        q, k, v = (torch.randn(2, heads, 5, 8) for heads in (4, *((2, 2) if settings.get("grouped") else (4, 4))))
        masks: list[Any] = [None] if settings.get("causal") else [None, torch.randn(5, 5), torch.rand(5, 5) > 0.3]
        for mask in masks:
            if mask is not None and mask.dtype == torch.bool:
                mask = mask | torch.eye(5, dtype=torch.bool)
            attention.written_out = False
            fused = attention(q, k, v, mask)
            attention.written_out = True
            torch.testing.assert_close(attention(q, k, v, mask), fused, rtol=1e-4, atol=1e-5)


def test_the_record_of_a_graph_is_json_and_has_every_layer() -> None:
    model, inventory = analyse(make_tiny(), torch.zeros(1, 3, 32, 32))
    record = json.loads(json.dumps(graph_record(model)))
    assert len(record["stages"]) == len(model.program.stages)
    called = {node["operator"] for stage in record["stages"] for node in stage}
    assert {c.module for c in inventory if c.slot == "weight"} <= called
    first = record["stages"][0]
    assert first[0]["operator"] == "input"
    assert first[0]["shape"][1:] == [3, 32, 32]


class _ByNumber(nn.Module):
    """Looks at one image after the other, as many as there are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(48, 16), nn.Linear(16, 3)
        self.num_classes = 3

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.last(self.first(x[i].flatten()).relu()) for i in range(len(x))])


@torch.no_grad()
def test_a_model_that_decides_by_the_number_of_images_is_run_on_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    module = _ByNumber().eval()
    x = torch.randn(5, 3, 4, 4)
    model = captured(module, x[:1])
    assert model.closed
    assert "images are run one after the other" in capsys.readouterr().err
    torch.testing.assert_close(model(x), module(x))
    assert not captured(make_tiny(), torch.zeros(1, 3, 32, 32)).closed
    images = torch.randn(24, 3, 4, 4)
    with shallow_searches():
        found = pmq.search(
            module,
            images,
            "6bit",
            options=pmq.SearchOptions(recipe="minmax", n_rounds=1, max_evals=2),
            split=pmq.DataSplit(n_calibration=8, n_held_out=16),
        )
    assert found.allocation.metrics["agreement"] > 50
