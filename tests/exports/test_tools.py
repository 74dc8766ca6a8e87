"""The other tools read what is written, and compute what pmq simulates of it; ``make test-bridges`` installs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

import pmq
from pmq.core import Allocation
from pmq.models.equivalence import relative_error
from tests.asked import asked
from tests.conftest import make_tiny
from tests.exports.conftest import Reference
from tests.exports.coreml_file import stored_weights
from tests.shallow import shallow_searches

#: relative error that sums in another order explain, where a value at the edge of two levels may fall to either
ROUNDING = 0.02
#: the same where a tool rounds a few rows of weights again
ROUNDED_AGAIN = 0.06


def agree(model: Any, reference: nn.Module, images: torch.Tensor, limit: float = ROUNDING) -> None:
    with torch.no_grad():
        expected, got = reference(images), model(images)
        assert relative_error(expected, got) < limit
        assert relative_error(make_tiny()(images), got) > limit, "nothing is quantized"


def test_aimet(mixed: Allocation, reference: Reference, images: torch.Tensor, tmp_path: Path) -> None:
    pytest.importorskip("aimet_onnx")
    import onnx
    from aimet_onnx.quantsim import QuantizationSimModel, load_encodings_to_sim

    file, graph = pmq.export(mixed, tmp_path / "tiny.encodings", "aimet", make_tiny(), "skip")
    sim = QuantizationSimModel(onnx.load(graph))
    load_encodings_to_sim(sim, str(file), strict=False)
    content = json.loads(file.read_text())
    for entry in content["activation_encodings"] + content["param_encodings"]:
        quantizer = sim.qc_quantize_op_dict[entry["name"]]
        assert quantizer.enabled
        assert quantizer.bitwidth == entry["bw"]
    enabled = [name for name, quantizer in sim.qc_quantize_op_dict.items() if quantizer.enabled]
    assert len(enabled) == len(content["activation_encodings"]) + len(content["param_encodings"])

    def run(batch: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.from_numpy(sim.session.run(None, {"image": image[None].numpy()})[0]) for image in batch])

    agree(run, reference("aimet"), images[:8])


def test_qnn_overrides_are_read_by_aimet(mixed: Allocation, tmp_path: Path) -> None:
    """QNN's converter is not on PyPI; its overrides have the layout of AIMET's first encodings."""
    pytest.importorskip("aimet_onnx")
    import onnx
    from aimet_onnx.quantsim import QuantizationSimModel, load_encodings_to_sim

    file, graph = pmq.export(mixed, tmp_path / "tiny.json", "qnn", make_tiny(), "widen")
    sim = QuantizationSimModel(onnx.load(graph))
    load_encodings_to_sim(sim, str(file), strict=False)
    content = json.loads(file.read_text())
    for name, entries in (content["activation_encodings"] | content["param_encodings"]).items():
        assert sim.qc_quantize_op_dict[name].bitwidth == entries[0]["bitwidth"]
        assert sim.qc_quantize_op_dict[name].bitwidth in (4, 8)


def test_torchao(mixed: Allocation, reference: Reference, images: torch.Tensor, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    from torchao.core.config import config_from_dict
    from torchao.quantization import quantize_

    file, weights = pmq.export(mixed, tmp_path / "tiny.json", "torchao", make_tiny(), "skip")
    model = make_tiny()
    model.load_state_dict(load_file(weights))
    quantize_(model, config_from_dict(json.loads(file.read_text())), filter_fn=None)
    widths = {
        name: str(module.weight.target_dtype).removeprefix("torch.int")
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and hasattr(module.weight, "target_dtype")
    }
    linear = [name for name, module in make_tiny().named_modules() if isinstance(module, nn.Linear)]
    assert widths == {name: str(mixed.components[f"{name}.weight"].bits) for name in linear}
    simulated = dict(reference("torchao").named_parameters())
    equal = [
        torch.isclose(model.get_submodule(name).weight.dequantize(), simulated[f"{name}.weight"], rtol=1e-5).all(1)
        for name in linear
    ]
    assert torch.cat(equal).float().mean() > 0.95, "rows that reach the ends of their grids keep their integers"
    agree(model, reference("torchao"), images[:8], ROUNDED_AGAIN)


def test_torchao_finds_ranges_of_inputs_at_run_time(images: torch.Tensor, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    from torchao.core.config import config_from_dict
    from torchao.quantization import quantize_

    quick = {"recipe": "fast", "n_calibration": 8, "n_held_out": 16, "n_rounds": 1, "max_evals": 2}
    with shallow_searches():
        allocation = pmq.search(make_tiny(), images, "0.35x", space="executorch", **asked(**quick)).allocation
    assert any(choice.quantizer == "dynamic" for choice in allocation.components.values())
    file, weights = pmq.export(allocation, tmp_path / "tiny.json", "torchao", make_tiny())  # nothing has to be left out
    model = make_tiny()
    model.load_state_dict(load_file(weights))
    quantize_(model, config_from_dict(json.loads(file.read_text())), filter_fn=None)
    agree(model, pmq.simulate(make_tiny(), allocation), images[:8], ROUNDED_AGAIN)


def test_nncf(mixed: Allocation, reference: Reference, images: torch.Tensor, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    from nncf.torch import load_from_config

    file, weights = pmq.export(mixed, tmp_path / "tiny.json", "nncf", make_tiny(), "skip")
    config = json.loads(file.read_text())
    model = load_from_config(make_tiny(), config)
    model.load_state_dict(load_file(weights))
    agree(model, reference("nncf"), images[:8])
    assert sum("bit=" in repr(module) for module in model.modules() if type(module).__name__.endswith("Quantizer")) == len(
        config["compression_state"]
    )


def test_modelopt(mixed: Allocation, reference: Reference, images: torch.Tensor, tmp_path: Path) -> None:
    pytest.importorskip("modelopt")
    import modelopt.torch.quantization as mtq

    file, weights = pmq.export(mixed, tmp_path / "tiny.yaml", "modelopt", make_tiny(), "skip")
    model = mtq.quantize(make_tiny(), yaml.safe_load(file.read_text()))
    state = load_file(weights)
    for name, value in state.items():
        owner, _, leaf = name.rpartition(".")
        if leaf in ("_amax", "_bias_value"):
            model.get_submodule(owner).register_buffer(leaf, value)
    model.load_state_dict(state)
    bits = {name: model.get_submodule(f"{name}_quantizer").num_bits for name in mixed.components if name.endswith(".weight")}
    assert bits == {name: mixed.components[name].bits for name in bits}
    agree(model, reference("modelopt"), images[:8])


@pytest.mark.parametrize("levels", ["mixed", "free"])
def test_coreml(levels: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    mixed: Allocation = request.getfixturevalue(levels)
    (file,) = pmq.export(mixed, tmp_path / "tiny.mlpackage", "coreml", make_tiny(), "widen")
    simulated = dict(pmq.simulate(make_tiny(), mixed).named_parameters())
    weights = {name: choice.bits for name, choice in mixed.components.items() if name.endswith(".weight")}
    stored = stored_weights(file)
    assert set(stored) == {name.replace(".", "_") for name in weights}
    for name, expected in weights.items():
        bits, values = stored[name.replace(".", "_")]
        assert bits == ({5: 6} if levels == "mixed" else {5: 8}).get(expected, expected)
        assert np.allclose(values, simulated[name].detach().numpy(), rtol=2e-3)
