"""All formats: what they write, what they refuse, and what becomes of what they cannot express."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from safetensors.numpy import load_file

import pmq
from pmq.cli import app
from pmq.core import Allocation, PmqError
from pmq.core.component import Component
from pmq.core.patches import PatchMap, TokenBits
from pmq.exports import FORMATS
from pmq.exports.fit import Holds, fit
from pmq.exports.grid import Grid
from pmq.exports.tensor import QuantizedTensor
from tests.conftest import make_tiny

NAMES = ("aimet", "coreml", "modelopt", "nncf", "qnn", "torchao")


def export(what: Allocation, folder: Path, name: str, unsupported: str) -> tuple[Path, ...]:
    if name == "coreml":
        pytest.importorskip("coremltools")
    return pmq.export(what, folder / f"tiny{FORMATS[name].suffix}", name, make_tiny(), unsupported)


def test_all_formats_are_listed() -> None:
    assert tuple(FORMATS) == NAMES
    command: Any = typer.main.get_command(app)
    (option,) = (each for each in command.commands["export"].params if each.name == "format")
    assert all(name in option.help for name in NAMES)
    pages = Path(__file__).parents[2] / "docs" / "going-to"
    assert {page.stem for page in pages.glob("*.md")} == {"index", *NAMES}


@pytest.mark.parametrize("name", NAMES)
class TestFormats:
    def test_what_cannot_be_expressed_is_refused_with_counts(self, name: str, mixed: Allocation, tmp_path: Path) -> None:
        with pytest.raises(PmqError, match=rf"'{name}' cannot express \d+ of \d+ components: .+: \d+ \(such as '.+'\)") as error:
            export(mixed, tmp_path, name, "refuse")
        assert "\n" not in str(error.value)
        assert "unsupported=widen" in str(error.value)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("unsupported", ["skip", "widen"])
    def test_writes_its_files_and_says_what_is_missing(
        self, name: str, unsupported: str, mixed: Allocation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        files = export(mixed, tmp_path, name, unsupported)
        assert sorted(files) == sorted(tmp_path.iterdir())
        assert [file.suffix for file in files] == [FORMATS[name].suffix, *FORMATS[name].beside]
        told = capsys.readouterr().err
        assert "quantized components as they are" in told
        assert ("left in FP32" in told) or ("widened" in told)

    def test_the_user_module_is_left_unchanged(self, name: str, mixed: Allocation, tmp_path: Path) -> None:
        if name == "coreml":
            pytest.importorskip("coremltools")
        model = make_tiny()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        pmq.export(mixed, tmp_path / f"tiny{FORMATS[name].suffix}", name, model, "skip")
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    def test_wrong_suffixes_and_existing_inputs_are_refused(self, name: str, mixed_file: Path, tmp_path: Path) -> None:
        with pytest.raises(PmqError, match=f"a \\{FORMATS[name].suffix} file is written"):
            pmq.export(mixed_file, tmp_path / "tiny.bin", name, make_tiny(), "skip")
        with pytest.raises(PmqError):
            pmq.export(mixed_file, mixed_file, name, make_tiny(), "skip")


def test_unknown_words_are_refused(mixed: Allocation, tmp_path: Path) -> None:
    with pytest.raises(PmqError, match="'onnx' is not one of json, aimet, coreml"):
        pmq.export(mixed, tmp_path / "x.json", "onnx")
    with pytest.raises(PmqError, match="'drop' is not one of refuse, skip, widen"):
        pmq.export(mixed, tmp_path / "x.json", "torchao", unsupported="drop")
    with pytest.raises(PmqError, match="shorthand"):
        pmq.export("w8a8", tmp_path / "x.json", "torchao", make_tiny())
    with pytest.raises(PmqError, match="is of model"):
        pmq.export(mixed, tmp_path / "x.json", "torchao")


def test_bits_of_patches_are_refused_or_left_out(mixed: Allocation, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "blocks.0.attn.qkv.input"
    tokens = TokenBits.of([mixed.components[name].bits] * 17)
    patches = PatchMap(kind="static", prefix=1, components={name: tokens})
    assert mixed.tensors is not None
    mapped = mixed.model_copy(update={"patches": patches}).with_tensors(mixed.tensors)
    with pytest.raises(PmqError, match="bits of single patches; pass `unsupported=skip`"):
        pmq.export(mapped, tmp_path / "x.json", "nncf", make_tiny())
    pmq.export(mapped, tmp_path / "x.json", "nncf", make_tiny(), "skip")
    assert "left out: bits of single patches" in capsys.readouterr().err


def test_missing_tensors_and_other_weights_are_named(mixed: Allocation, tmp_path: Path) -> None:
    bare = Allocation.model_validate(mixed.model_dump())
    with pytest.raises(PmqError, match=r"\.safetensors file that was written beside"):
        pmq.export(bare, tmp_path / "x.json", "nncf", make_tiny(), "skip")
    other = make_tiny()
    other.head.bias.data += 1
    with pytest.raises(PmqError, match="is of other weights of"):
        pmq.export(mixed, tmp_path / "x.json", "nncf", other, "skip")


def test_weights_are_those_of_the_simulation(mixed: Allocation, tmp_path: Path) -> None:
    pmq.export(mixed, tmp_path / "tiny.json", "torchao", make_tiny(), "skip")
    state = load_file(tmp_path / "tiny.safetensors")
    simulated = pmq.simulate(make_tiny(), mixed)
    weights = {name: value for name, value in simulated.named_parameters() if name.endswith("qkv.weight")}
    assert weights
    for name, value in weights.items():
        assert np.array_equal(state[name], value.detach().numpy()), name
    assert set(make_tiny().state_dict()) == set(state)


def test_free_levels_of_weights_are_widened_to_the_grid_under_them(free: Allocation, tmp_path: Path) -> None:
    components = {name: choice for name, choice in free.components.items() if name.endswith(".weight")}
    assert {choice.quantizer for choice in components.values() if choice.bits < 8} == {"palette"}
    file, _ = pmq.export(free, tmp_path / "tiny.json", "qnn", make_tiny(), "widen")
    written = json.loads(file.read_text())["param_encodings"]
    assert {entry["bitwidth"] for entries in written.values() for entry in entries} == {8}
    simulated = dict(pmq.simulate(make_tiny(), free).named_parameters())
    for name in ("blocks.0.attn.qkv.weight", "blocks.1.mlp.fc2.weight"):
        scale = torch.tensor([entry["scale"] for entry in written[name]])[:, None]
        integers = simulated[name].detach() / scale
        torch.testing.assert_close(integers, integers.round(), rtol=0, atol=1e-3)
        assert float(integers.abs().max()) <= 127.01


def test_graph_names_the_tensors_of_all_encodings(mixed: Allocation, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    file, graph = pmq.export(mixed, tmp_path / "tiny.encodings", "aimet", make_tiny(), "widen")
    proto, content = onnx.load(graph), json.loads(file.read_text())
    onnx.checker.check_model(proto)
    known = {name for node in proto.graph.node for name in node.output} | {"image"}
    assert {entry["name"] for entry in content["activation_encodings"]} <= known
    assert {entry["name"] for entry in content["param_encodings"]} <= {tensor.name for tensor in proto.graph.initializer}
    assert len(content["activation_encodings"]) + len(content["param_encodings"]) == len(mixed.components)


def test_graph_computes_the_model_with_quantized_weights(mixed: Allocation, images: torch.Tensor, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    _, graph = pmq.export(mixed, tmp_path / "tiny.json", "qnn", make_tiny(), "widen")
    session = onnxruntime.InferenceSession(graph.read_bytes(), providers=["CPUExecutionProvider"])
    got = np.concatenate([session.run(None, {"image": image[None].numpy()})[0] for image in images[:4]])
    pmq.export(mixed, tmp_path / "weights.json", "torchao", make_tiny(), "skip")
    model = make_tiny()
    model.load_state_dict({key: torch.from_numpy(value) for key, value in load_file(tmp_path / "weights.safetensors").items()})
    with torch.no_grad():
        assert np.allclose(got, model(images[:4]).numpy(), atol=1e-4)


def test_tables_of_free_levels_are_held_where_a_format_has_them() -> None:
    from pmq.core.choice import Choice

    around = Grid(8, np.full((4, 1), 0.5), np.full((4, 1), 128.0), symmetric=True)
    choice = Choice(bits=3, quantizer="palette", granularity="channel", symmetric=True)
    tensors = {"a": QuantizedTensor(Component("a", "weight", "weight", 0, (4, 4), 1), choice, None, None, around)}
    tables = fit(tensors, {"a": Holds((3, 8), ("channel",), tables=True)}, "refuse")
    assert tables.grids == {"a": around}
    assert not tables.reasons
    even = fit(tensors, {"a": Holds((3, 8), ("channel",))}, "widen")
    assert (even.grids["a"].bits, even.widened) == (8, {"a"})
    assert fit(tensors, {"a": Holds((3, 8), ("channel",))}, "skip").left_out == ["a"]


def _tensor(slot: str, bits: int, granularity: str = "tensor", quantizer: str = "affine") -> QuantizedTensor:
    from pmq.core.choice import Choice

    heads = 2 if granularity == "head" else 1
    grid = Grid(bits, np.full(heads, 0.5), np.full(heads, 2.0)) if quantizer == "affine" else None
    choice = Choice(bits=bits, quantizer=quantizer, granularity=granularity)
    return QuantizedTensor(Component("a", slot, slot, 0, (4, 4), heads), choice, grid, (-1.0, 3.5))


def test_widening_covers_the_range_and_never_narrows() -> None:
    tensors = {"even": _tensor("input", 3), "heads": _tensor("q", 3, "head"), "uneven": _tensor("input", 4, quantizer="power")}
    result = fit(tensors, dict.fromkeys(tensors, Holds((4, 8))), "widen")
    assert {name: grid.bits for name, grid in result.grids.items()} == {"even": 4, "heads": 8, "uneven": 8}
    for grid in result.grids.values():
        assert np.isclose(grid.low.min(), -1, atol=grid.scale.max() / 2)
        assert np.isclose(grid.high.max(), 3.5, atol=grid.scale.max() / 2)
    assert result.widened == set(tensors)
    skipped = fit(tensors, dict.fromkeys(tensors, Holds((4, 8))), "skip")
    assert not skipped.grids
    assert skipped.left_out == list(tensors)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_wider_weight_has_all_levels_of_the_narrow_one(symmetric: bool) -> None:
    narrow = Grid(3, np.array([[0.25]]), np.array([[4.0 if symmetric else 1.0]]), symmetric)
    wide = narrow.containing(6)

    def levels(grid: Grid) -> set[float]:
        return set(((np.arange(2**grid.bits) - grid.zero_point) * grid.scale).ravel().tolist())

    assert levels(narrow) < levels(wide)
