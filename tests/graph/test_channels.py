"""Channels are followed through whatever moves values, and no further."""

from __future__ import annotations

import pytest
import torch

from pmq.core.recipe import RECIPES
from pmq.graph import captured
from pmq.graph.channels import Channels, Follower
from pmq.graph.heads import attentions
from pmq.models.torchvision_ops import ensure_torchvision
from pmq.quant.transforms import TRANSFORMS, Setting
from pmq.quant.transforms.streams import residual_streams
from pmq.quant.transforms.structure import norm_pairs, scaled_layers
from tests.conftest import make_captured


def test_thirds_of_a_joint_layer_are_found_by_head() -> None:
    for heads in attentions(make_captured()):
        assert heads.q is not None
        assert heads.k is not None
        assert heads.v is not None
        assert heads.mixed is not None
        for part, operand in enumerate((heads.q, heads.k, heads.v)):
            assert torch.equal(operand.rows, part * 32 + torch.arange(32).reshape(2, 16))
        assert torch.equal(heads.mixed.columns, torch.arange(32).reshape(2, 16))


def test_a_stream_has_all_that_writes_and_reads_it() -> None:
    (stream,), reasons = residual_streams(make_captured())
    assert reasons == []
    assert (stream.width, len(stream.writers), len(stream.tensors)) == (
        32,
        5,
        2,
    )
    assert len(stream.norms) == len(stream.readers) == 5


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_classes": 0}, "layer_norm of norm reads it"),
        ({"pre_norm": True}, "layer_norm of norm_pre writes to it"),
        ({"init_values": 0.1}, "mul of blocks.1.ls2 writes to it"),
    ],
)
def test_why_a_stream_is_left_alone_is_told(options: dict[str, object], reason: str) -> None:
    model = make_captured(**options)
    streams, reasons = residual_streams(model)
    assert streams == []
    assert reason in reasons
    if "init_values" in options:  # which is folded before
        TRANSFORMS["fold_norms"](model, Setting(torch.randn(4, 3, 32, 32)))
        assert residual_streams(model)[1] == []
        assert len(list(scaled_layers(model))) == 4


def test_queries_that_are_normed_or_turned_by_position_are_not_known() -> None:
    assert all(heads.q is None and heads.v is not None for heads in attentions(make_captured(qk_norm=True)))
    ensure_torchvision()
    import timm

    module = timm.create_model("eva02_tiny_patch14_224", img_size=28, depth=1).eval()
    assert all(heads.q is None and heads.v is not None for heads in attentions(captured(module, torch.zeros(1, 3, 28, 28))))


def test_every_norm_of_a_plain_model_has_its_readers() -> None:
    pairs = norm_pairs(make_captured())
    assert [len(pair.readers) for pair in pairs] == [1] * 5
    assert set(RECIPES["best"].transforms) == set(TRANSFORMS)


def test_what_is_mixed_has_no_channels() -> None:
    assert Channels.of(torch.tensor([[0, 1], [1, 0]])) is not None  # of each place its own
    crossed = Channels.of(torch.tensor([[0, 1], [1, 0]]))
    assert crossed is not None
    assert crossed.along(0) is None
    assert crossed.along(1) is None
    plain = Channels.of(torch.tensor([[0, 1, 2], [0, 1, 2]]))
    assert plain is not None
    assert torch.equal(plain.along(-1), torch.tensor([0, 1, 2]))  # type: ignore[arg-type]
    assert Follower(make_captured()).graph is not None
