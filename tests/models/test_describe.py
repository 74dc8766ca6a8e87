"""Which images a model was built for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pmq.models import model_info
from pmq.models.describe import input_size
from pmq.models.torchvision_ops import ensure_torchvision
from pmq.models.weights import weights_sha256
from tests.conftest import make_tiny


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("levit_128s", {}, [3, 224, 224]),
        ("levit_128s", {"in_chans": 1}, [1, 224, 224]),
        ("tnt_s_legacy_patch16_224", {"in_chans": 4}, [4, 224, 224]),
        ("coat_tiny", {"in_chans": 5}, [5, 224, 224]),
        ("volo_d1_224", {}, [3, 224, 224]),  # whose patch_embed.proj takes 64 channels
        ("tresnet_m", {}, [3, 224, 224]),  # whose first convolution takes 16 pixels at once
        ("test_vit", {"img_size": 64, "in_chans": 1}, [1, 64, 64]),
    ],
)
def test_channels_are_those_of_the_layer_that_sees_the_image(name: str, options: dict[str, Any], size: list[int]) -> None:
    ensure_torchvision()
    import timm

    with torch.device("meta"):
        model = timm.create_model(name, **options)
    assert input_size(model) == size


class Wrapped(nn.Module):
    """A user's module: it tells nothing of itself, and its layers are not registered in the order of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Conv2d(64, 3, 1)
        self.vit = make_tiny(in_chans=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(x)


def test_of_a_users_module_as_well() -> None:
    model = Wrapped()
    assert input_size(model) == [2, 32, 32]
    assert model_info(model).data_config == {"input_size": [2, 32, 32]}  # how they are prepared nobody says
    model.pretrained_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}  # type: ignore[assignment]
    assert len(model_info(model).data_config["mean"]) == 2
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_images_that_are_known_count() -> None:
    model = Wrapped()
    model.pretrained_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}  # type: ignore[assignment]
    config = model_info(model, (4, 48, 40)).data_config
    assert config["input_size"] == [4, 48, 40]
    assert len(config["std"]) == 4


def test_weights_are_told_apart_by_scalars_too() -> None:
    model = make_tiny()
    model.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
    before = weights_sha256(model)
    model.scale.data += 1  # type: ignore[union-attr, operator]
    assert weights_sha256(model) != before
