"""Models that are not timm's, by name and as modules: they are captured, searched and deployed like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pmq
from pmq.core import PmqError
from pmq.models import create_model, model_info, model_label
from pmq.models.torchvision_ops import ensure_torchvision
from pmq.pipeline.subject import Subject

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def of_torchvision(name: str) -> tuple[nn.Module, int]:
    ensure_torchvision()
    from torchvision.models import SwinTransformer, VisionTransformer

    if name == "vit":
        module: Any = VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=7)
        nn.init.normal_(module.heads.head.weight)  # which begins at zero
        return module, 32
    return SwinTransformer([4, 4], 24, [2, 2], [2, 4], [7, 7], num_classes=7), 56


def of_transformers(name: str) -> tuple[nn.Module, int]:
    t = pytest.importorskip("transformers")
    makers: dict[str, Callable[[], nn.Module]] = {
        "hf vit": lambda: t.ViTForImageClassification(t.ViTConfig(**SMALL, image_size=32, patch_size=8, num_labels=7)),
        "hf dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**SMALL, image_size=32, patch_size=8)),
        "hf clip": lambda: t.CLIPVisionModelWithProjection(t.CLIPVisionConfig(**SMALL, image_size=32, patch_size=8)),
        "hf siglip": lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**SMALL, image_size=32, patch_size=8)),
    }
    return makers[name](), 32


def taken(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    module, size = of_transformers(name) if name.startswith("hf") else of_torchvision(name)
    return module.eval(), torch.randn(24, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", ["vit", "swin", "hf vit", "hf dinov2", "hf clip", "hf siglip"])
def test_models_of_others_are_searched_evaluated_and_deployed(name: str, tmp_path: Path) -> None:
    module, images = taken(name)
    found = pmq.search(
        module,
        images,
        "4bit",
        options=pmq.SearchOptions(recipe="fast", n_rounds=1, max_evals=1),
        split=pmq.DataSplit(n_calibration=8, n_held_out=16),
    )
    assert found.coverage.macs_searched > 99.5
    (row,) = pmq.evaluate(module, found.allocation, [images]).to_dict("records")
    decides = name in ("vit", "swin", "hf vit")
    assert row["agreement"] > 50 if decides else row["feature_error"] < 0.5
    assert pmq.simulate(module, found.allocation)(images[:2]).isfinite().all()
    deployed = pmq.deploy(
        module, "w8a8", "onnxruntime", images[:8], tmp_path, calibration_images=images[8:], recipe="minmax", n_passes=3
    )
    assert deployed.proof["layers"].passed
    assert deployed.proof["bits"].passed


@pytest.mark.parametrize(
    ("name", "components"),
    [
        ("vit", {"encoder.layers.encoder_layer_0.self_attention.in_proj.weight", "heads.head.weight"}),
        ("swin", {"features.1.0.attn.qkv.weight", "features.1.0.attn.softmax", "head.weight"}),
        ("hf vit", {"vit.layers.0.attention.q_proj.weight", "classifier.weight"}),
    ],
)
def test_components_are_called_by_the_models_own_names(name: str, components: set[str]) -> None:
    module, images = taken(name)
    inventory = Subject.of(module, images=images[:2]).inventory
    assert components <= set(inventory.names)
    assert inventory.covered_share == 1


def test_a_function_of_ones_own_makes_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_models.py").write_text(
        "from torch import nn\n\ndef make(width=4, num_classes=3):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.GELU(), nn.Linear(width, num_classes))\n"
        "\ndef number():\n    return 3\n"
        "\ndef fails():\n    return 1 / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    model: Any = create_model("own_models:make", num_classes=5, options={"width": 8})
    assert model[1].out_features == 8
    assert model[3].out_features == 5
    assert model_info(model, (3, 2, 2)).name == "own_models:make"
    assert not model.training
    (tmp_path / "torn_models.py").write_text("import torch\nwidth = undefined\n")
    for name, told in (
        *(("own_models:gone", "no attribute"), ("gone_models:make", "No module"), ("own_models:number", "int")),
        *(("own_models:fails", "ZeroDivisionError"), ("torn_models:make", "NameError")),
    ):
        with pytest.raises(PmqError, match=told):
            create_model(name)
    with pytest.raises(PmqError, match="`model_kwargs`"):
        create_model("own_models:make", options={"height": 2})


def test_a_model_of_transformers_is_named_as_it_was_asked_for(tmp_path: Path) -> None:
    t = pytest.importorskip("transformers")
    config = t.ViTConfig(**SMALL, image_size=32, patch_size=8, num_labels=3, architectures=["ViTForImageClassification"])
    config.save_pretrained(tmp_path)
    model: Any = create_model(f"hf:{tmp_path}", pretrained=False)
    assert model_info(model).name == f"hf:{tmp_path}"
    assert model_info(model).data_config["input_size"] == [3, 32, 32]
    assert model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 3)


def test_timms_models_take_arguments_and_sizes() -> None:
    size = {"patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2}
    model: Any = create_model("vit_tiny_patch16_224", None, 3, False, options=size, input_size=(1, 32, 48))
    assert model(torch.zeros(1, 1, 32, 48)).shape == (1, 3)
    assert model_info(model).data_config["input_size"] == [1, 32, 48]
    whole = create_model("vit_tiny_patch16_224", None, 3, False)
    assert model_label(model).startswith(model_label(whole) + "-")  # so that no latency of the one is taken for the other's
    convolving: Any = create_model("mobilevit_xxs", None, 3, False, input_size=(3, 64, 64))
    assert model_info(convolving).data_config["input_size"] == [3, 64, 64]
    with pytest.raises(PmqError, match="timm cannot create"):
        create_model("vit_tiny_patch16_224", None, 3, False, options={"height": 2})
    with pytest.raises(PmqError, match="by zero"):
        create_model("vit_tiny_patch16_224", None, 3, False, options={"num_heads": 0})


class Otherwise(nn.Module):
    """A layer whose output is made something of that no graph has."""

    def __init__(self, how: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.how = nn.Linear(12, 3), how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.how(self.layer(x.flatten(1)))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (lambda y: y if y.sum() > 0 else -y, r"cannot be captured as a graph \(.*test_sources.py, line \d+\)"),
        (lambda y: y + torch.rand(3), "must not depend on random numbers"),
    ],
)
def test_a_forward_that_decides_by_values_or_draws_is_refused(how: Callable[[torch.Tensor], torch.Tensor], told: str) -> None:
    with pytest.raises(PmqError, match=told):
        Subject.of(Otherwise(how).eval(), images=torch.randn(4, 3, 2, 2))
