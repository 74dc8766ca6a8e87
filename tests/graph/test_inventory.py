import pytest
import torch
from torch import nn

from pmq.graph import analyse, captured
from pmq.graph.macs import unfused
from pmq.models.torchvision_ops import ensure_torchvision
from tests.conftest import make_tiny


def zoo(name: str) -> nn.Module:
    ensure_torchvision()
    import timm

    small = {"num_classes": 5}
    if name == "swin":
        swin = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2)}
        return timm.create_model("swin_tiny_patch4_window7_224", **small, **swin).eval()
    if name == "distilled":
        deit = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
        return timm.create_model("deit_tiny_distilled_patch16_224", **small, **deit).eval()
    return make_tiny(**({"num_classes": 0} if name == "headless" else {}))


@pytest.fixture(params=["vit", "headless", "distilled", "swin"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    return zoo(request.param)


def test_stages_compose_to_the_model(model: nn.Module) -> None:
    x = torch.randn(2, 3, 32, 32)
    found = captured(model, x[:1])
    with torch.no_grad():
        assert len(found.program.stages) > 2
        assert torch.equal(found.run(found.run(x, 0, 2), 2), found(x))
        torch.testing.assert_close(found(x), model(x))


def test_every_matrix_is_a_component_and_nothing_is_counted_twice(model: nn.Module) -> None:
    _, inventory = analyse(model, torch.zeros(1, 3, 32, 32))
    layers = {n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert inventory.uncovered == ()
    assert {c.module for c in inventory if c.slot == "weight"} == layers
    assert len(set(inventory.names)) == len(inventory.components)
    weights = sum(c.numel * 4 for c in inventory if c.role == "weight")
    assert weights + inventory.rest_bytes == sum(p.numel() * 4 for p in model.parameters())


def test_macs_agree_with_torch(model: nn.Module) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.zeros(1, 3, 32, 32)
    _, inventory = analyse(model, x)
    with unfused(model), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert 2 * sum(op.macs for op in inventory.operators) == counter.get_total_flops()


def test_kinds_tell_gelu_softmax_and_image_apart(tiny) -> None:
    kinds = {c.name: c.kind for c in tiny.inventory}
    assert kinds["patch_embed.proj.input"] == "image"
    assert kinds["blocks.0.mlp.fc2.input"] == "gelu"
    assert kinds["blocks.0.mlp.fc1.input"] == "norm"
    assert kinds["blocks.1.attn.softmax"] == "softmax"
    assert kinds["head.weight"] == "head"


def test_inventory_round_trips_as_json(tiny) -> None:
    import json

    from pmq.core import Inventory

    assert Inventory.from_dict(json.loads(json.dumps(tiny.inventory.to_dict()))) == tiny.inventory


def test_layers_that_compute_something_of_their_own_are_components_as_well() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model = make_tiny()
    model.blocks[0].mlp.fc1 = Scaled(32, 128)
    found, inventory = analyse(model, torch.zeros(1, 3, 32, 32))
    assert inventory.uncovered == ()
    assert "blocks.0.mlp.fc1.weight" in inventory.names
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(found(x), model(x))
    pooled = make_tiny(global_pool="map", class_token=False)
    assert analyse(pooled, torch.zeros(1, 3, 32, 32))[1].covered_share == 1


def test_data_config_follows_the_size_the_model_was_built_for() -> None:
    from pmq.models import model_info

    config = model_info(make_tiny(in_chans=1)).data_config
    assert config["input_size"] == [1, 32, 32]
    assert len(config["mean"]) == len(config["std"]) == 1


@pytest.mark.parametrize("options", [{"padding_mode": "reflect", "padding": 1}, {"padding": "same", "stride": 1}])
def test_patch_embeddings_that_pad_otherwise_are_convolutions(options: dict) -> None:
    model = make_tiny()
    model.patch_embed.proj = nn.Conv2d(3, 32, 8, **({"stride": 8} | options))
    model.patch_embed.strict_img_size = False
    model.pos_embed = nn.Parameter(torch.zeros(1, 1 + (1024 if options["padding"] == "same" else 16), 32))
    found, inventory = analyse(model, torch.zeros(1, 3, 32, 32))
    assert inventory["patch_embed.proj.weight"].kind == "conv"
    assert inventory.covered_share == 1
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(found(x), model(x))
