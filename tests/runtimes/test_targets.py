"""What every target must do: compute what was simulated, hold the bits it was given, refuse what it cannot run."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pmq
from pmq.core import Choice, PmqError
from pmq.core.recipe import find_recipe
from pmq.cost.latency import PLAIN, kernel_key
from pmq.graph import analyse, take_inventory
from pmq.optimize import Space, read_space
from pmq.quant import Quantized, build_quantized_model, prepare, quantize, restore
from pmq.runtimes import TARGETS, Target, target_of
from pmq.runtimes.labels import TARGET
from pmq.runtimes.layer import deploy_layers
from pmq.runtimes.onnx_target import OnnxTarget
from pmq.runtimes.profile import profile_layers
from pmq.runtimes.proof import bits_check, latency_check, layer_errors, layers_check, outputs_of, size_check
from tests.conftest import Tiny

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}


ALWAYS, MOBILE = ("onnxruntime", "openvino", "openvino-bf16"), ("litert", "executorch")


def installed(name: str) -> Target:
    """A target; those for phones, whose packages are heavy, are tested where they are installed."""
    if name in MOBILE:
        pytest.importorskip(TARGETS[name].runtime)
    TARGETS[name].require()
    return TARGETS[name]


@pytest.fixture(params=[*ALWAYS, *MOBILE])
def target(request: pytest.FixtureRequest) -> Target:
    return installed(request.param)


def with_tensors(model: Any, images: torch.Tensor, target: Target, mode: str) -> tuple[Any, Quantized, Space]:
    inventory = take_inventory(model, images[:1])
    space = Space(read_space(target.name), inventory, "minmax")
    mixed = [i % len(d) for i, d in enumerate(space.decisions)]
    genome = mixed if mode == "mixed" else space.uniform_modes()[mode]
    prepared = prepare(copy.deepcopy(model), inventory, images, find_recipe("minmax"), 0)
    return inventory, quantize(prepared, space.assignment(genome)), space


def written(target: Target, model: Any, image: torch.Tensor, inventory: Any, quantized: Quantized, path: Path, **how: Any) -> Any:
    target.check(quantized.assignment, inventory)
    restored = copy.deepcopy(model)
    layers = deploy_layers(restored, inventory, quantized, restore(restored, quantized))
    skeleton = target.skeleton(restored, [x.name for x in layers], image, **how)
    return layers, target.save(target.build(skeleton, layers), path, {TARGET: target.name})


class TestTargetConformance:
    @pytest.mark.parametrize(("name", "mode"), [(t, m) for t in (*ALWAYS, *MOBILE) for m in [*read_space(t).modes, "mixed"]])
    def test_computes_what_was_simulated(self, name: str, mode: str, tiny: Tiny, tmp_path: Path) -> None:
        target = installed(name)
        inventory, quantized, _ = with_tensors(tiny.model, tiny.images, target, mode)
        layers, files = written(target, tiny.model, tiny.images[:1], inventory, quantized, tmp_path / f"m{target.suffix}")
        simulator = build_quantized_model(copy.deepcopy(tiny.model), inventory, quantized)
        errors = layer_errors(target, layers, simulator, tiny.images[:1])
        assert layers_check(errors).passed, errors
        assert len(errors) == sum(not (x.weight.is_fp32 and x.source.is_fp32) for x in layers)
        assert bits_check(target.stored(files[0]), quantized.assignment, inventory).passed
        found = outputs_of(target.session(files[0]), tiny.images)
        with torch.no_grad():
            wanted = simulator.model(tiny.images)
        assert bool((found.argmax(1) == wanted.argmax(1)).all())
        if mode in ("half", "float") or (mode in ("w4", "w8") and name in ALWAYS):  # others' flipped roundings compound
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
        assert target_of(files[0]) is target

    def test_a_batch_may_be_left_open(self, target: Target, tiny: Tiny, tmp_path: Path) -> None:
        if not target.open_batch:
            with pytest.raises(PmqError, match="no open batch size"):
                pmq.deploy(tiny.module, "w8a8", target.name, tiny.images, tmp_path, dynamic_batch=True)
            return
        inventory, quantized, _ = with_tensors(tiny.model, tiny.images, target, "mixed")
        path = tmp_path / f"m{target.suffix}"
        _, files = written(target, tiny.model, tiny.images[:2], inventory, quantized, path, dynamic_batch=True)
        session = target.session(files[0])
        one, three = session(tiny.images[:1].numpy()), session(tiny.images[:3].numpy())
        np.testing.assert_allclose(three[:1], one, rtol=1e-3, atol=1e-3)

    def test_refuses_what_it_cannot_run(self, target: Target, tiny: Tiny) -> None:
        space = Space(read_space(target.name), tiny.inventory)
        assignment = space.assignment([len(d) - 1 for d in space.decisions])
        any_bits = isinstance(target, OnnxTarget) and target.name != "openvino-bf16"
        head = Choice(bits=16, quantizer="bfloat16") if any_bits else Choice(bits=3, symmetric=True, granularity="channel")
        for name, choice in (
            ("head.weight", head),
            ("blocks.0.attn.q", Choice(bits=16, quantizer="half") if any_bits else Choice(bits=8)),
        ):
            with pytest.raises(PmqError, match=f"{target.name}.*{name.removesuffix('.weight')}"):
                target.check(assignment | {name: choice}, tiny.inventory)
        source = Choice(bits=8) if "w8 x 8" in target.modes else Choice(bits=8, quantizer="dynamic", granularity="token")
        if any_bits:
            return
        skewed = {"head.weight": Choice(bits=8, granularity="channel"), "head.input": source}
        with pytest.raises(PmqError, match="not symmetric"):
            target.check(assignment | skewed, tiny.inventory)

    def test_a_missing_package_is_told(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, target.runtime, None)  # as if it were not installed
        with pytest.raises(PmqError, match=rf"needs '{target.runtime}'.*pmq\[{target.extra}\]"):
            target.require()

    def test_what_is_no_model_is_told(self, target: Target, tmp_path: Path) -> None:
        path = tmp_path / f"broken{target.suffix}"
        path.write_bytes(b"no model")
        for read in (target.session, target.stored, target_of):
            with pytest.raises(PmqError, match="broken"):
                read(path)

    def test_every_layer_is_timed_at_every_choice(self, target: Target, tiny: Tiny) -> None:
        space = Space(read_space(target.name), tiny.inventory)
        layers = [d for d in space.decisions if len(d.components) == 2]
        choices = {d.components[0].removesuffix(".weight"): list(zip(*d.choices, strict=True)) for d in layers}
        for _ in range(5):  # another job may disturb the clock, and what is timed here takes microseconds
            table = profile_layers(target, tiny.model, tiny.inventory, choices, "tiny", (3, 32, 32), rounds=3)
            times = [table.latency_ms(space.assignment(genome)) for genome in space.uniform_modes().values()]
            if table.margin < 2 and min(times) > 0:
                break
        assert {name: set(row) for name, row in table.layers.items()} == {
            name: {PLAIN, *(kernel_key(*mode) for mode in modes)} for name, modes in choices.items()
        }
        assert 0 < table.margin < 2
        assert min(times) > 0
        assert table.fingerprint.keys() == {"processor", "architecture", target.runtime}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("swin_tiny_patch4_window7_224", {"img_size": 56, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2)}),
        (
            "vit_tiny_patch16_224",
            {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "global_pool": "avg"},
        ),
        ("deit_tiny_distilled_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}),
    ],
)
def test_other_families(name: str, options: dict[str, Any], target: Target, tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False, num_classes=7, **options).eval()
    images = torch.randn(4, 3, options["img_size"], options["img_size"])
    model, _ = analyse(module, images[:1])
    inventory, quantized, _ = with_tensors(model, images, target, "int8")
    layers, files = written(target, model, images[:1], inventory, quantized, tmp_path / f"m{target.suffix}")
    simulator = build_quantized_model(copy.deepcopy(model), inventory, quantized)
    assert layers_check(layer_errors(target, layers, simulator, images[:1])).passed
    found = outputs_of(target.session(files[0]), images)
    with torch.no_grad():
        wanted = simulator.model(images)
    assert float((found - wanted).norm() / wanted.norm()) < 0.05


class Convolving(nn.Module):
    """Convolutions of all kinds before a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.depthwise, self.point = nn.Conv2d(16, 16, (3, 5), padding="same", groups=16), nn.Conv2d(16, 32, 1)
        self.grouped, self.up = nn.Conv2d(32, 32, 3, groups=4, dilation=2), nn.ConvTranspose2d(32, 16, 2, 2)
        self.head = nn.Linear(16, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(self.norm(self.stem(x)).relu()).relu()
        x = self.up(self.grouped(self.point(x).relu()).relu())
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "openvino-bf16"])
@pytest.mark.parametrize("mode", ["int8", "half", "bf16"])
def test_convolutions_of_all_kinds(name: str, mode: str, tmp_path: Path) -> None:
    target = installed(name)
    if mode not in read_space(name).modes:
        pytest.skip("the target has no such mode")
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    model, _ = analyse(Convolving().eval(), images[:1])
    inventory, quantized, _ = with_tensors(model, images, target, mode)
    layers, files = written(target, model, images[:1], inventory, quantized, tmp_path / "m.onnx")
    simulator = build_quantized_model(copy.deepcopy(model), inventory, quantized)
    errors = layer_errors(target, layers, simulator, images[:1])
    assert layers_check(errors).passed, errors
    assert bits_check(target.stored(files[0]), quantized.assignment, inventory).passed
    found = outputs_of(target.session(files[0]), images)
    with torch.no_grad():
        wanted = simulator.model(images)
    assert float((found - wanted).norm() / wanted.norm()) < 0.05


def test_checks_fail_where_they_should() -> None:
    assert size_check(1_000_000, 1_000_000, 0).passed
    assert size_check(1_060_000, 1_000_000, 64_000).passed
    assert not size_check(1_100_000, 1_000_000, 64_000).passed
    assert latency_check(10.4, 20.0, 10.0, 20.0).passed
    assert latency_check(20.8, 40.0, 10.0, 20.0).passed  # a machine that is slower now
    assert not latency_check(12.0, 20.0, 10.0, 20.0).passed
    assert not latency_check(8.0, 20.0, 10.0, 20.0).passed
    assert not layers_check({"a": 0.1, "b": 1.5}).passed


class _Twice(nn.Module):
    """Calls a layer in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.conv, self.num_classes = nn.Linear(16, 16), nn.Conv2d(3, 3, 3, padding=1), 16
        self.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (3, 4, 4), "architecture": "twice"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(self.conv(x).relu())
        y: torch.Tensor = self.layer(self.layer(x.mean(1).flatten(1)).relu())
        return y


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_layer_that_is_called_twice_is_written_once(target: str, tmp_path: Path) -> None:
    pytest.importorskip(TARGETS[target].runtime)
    torch.manual_seed(0)
    images = torch.randn(12, 3, 4, 4)
    options = {"calibration_images": images, "recipe": "minmax", "n_passes": 3}
    found = pmq.deploy(_Twice().eval(), "w8a8", target, images, tmp_path, **options)  # type: ignore[arg-type]
    assert found.passed, found.proof
