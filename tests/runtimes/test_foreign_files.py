"""Files of others, damaged ones and hostile ones end in one line, before any image is run where that can be known."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pmq.cli.run import run
from pmq.core import PmqError
from pmq.runtimes import TARGETS, target_of
from pmq.runtimes.labels import described
from pmq.runtimes.onnx_file import read_onnx
from pmq.runtimes.session import Session

CONFIG = {"input_size": [1, 4, 4], "interpolation": "nearest", "crop_pct": 1.0, "mean": [0.0], "std": [1.0]}
OPENED = ("onnxruntime", "openvino")
Change = Callable[[onnx.ModelProto], Any]


def tiny(target: str = "onnxruntime", outputs: int = 3, task: str = "auto", names: list[str] | None = None) -> onnx.ModelProto:
    """A classifier of grey images of 4 x 4 as pmq deploy would write it."""
    weight = np.linspace(-1, 1, 16 * outputs, dtype=np.float32).reshape(16, outputs)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["rows"]), helper.make_node("MatMul", ["rows", "weight"], ["output"])],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, outputs])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    texts = described(CONFIG, outputs, ["a", "b", "c"][:outputs] if names is None else names, task)
    helper.set_model_props(model, texts | {"pmq.target": target})
    return model


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) * 16).save(path)
    return path


def test_what_is_written_runs(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target in OPENED:
        run(saved(tiny(target), tmp_path / "m.onnx"), [image], json=True)
        (found,) = json.loads(capsys.readouterr().out)["results"]
        assert [each["name"] for each in found["classes"]] == ["c", "b", "a"]


def test_one_output_is_no_certainty(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(saved(tiny(outputs=1, names=["ham", "spam"]), tmp_path / "m.onnx"), [image], json=True)
    (found,) = json.loads(capsys.readouterr().out)["results"]
    assert {each["name"] for each in found["classes"]} == {"ham", "spam"}
    assert all(each["probability"] < 0.999 for each in found["classes"])
    run(saved(tiny(outputs=1, task="regression", names=[]), tmp_path / "m.onnx"), [image])
    assert "%" not in capsys.readouterr().out


def test_a_file_that_names_no_task_has_its_one_output_taken_for_a_logit_and_says_so(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny(outputs=1, names=[])
    texts = {each.key: each.value for each in model.metadata_props}
    preprocess = json.loads(texts["pmq.preprocess"])
    del preprocess["task"]
    helper.set_model_props(model, texts | {"pmq.preprocess": json.dumps(preprocess)})
    run(saved(model, tmp_path / "m.onnx"), [image])
    printed = capsys.readouterr()
    assert "positive" in printed.out
    assert "does not state what its single output means" in printed.err


def test_features_are_no_classes(image: Path, tmp_path: Path) -> None:
    with pytest.raises(PmqError, match="returns features"):
        run(saved(tiny(task="features"), tmp_path / "m.onnx"), [image])


def second_input(m: onnx.ModelProto) -> None:
    m.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1, 16]))
    m.graph.node[1].input[0] = "both"
    m.graph.node.insert(1, helper.make_node("Add", ["rows", "more"], ["both"]))


def second_output(m: onnx.ModelProto) -> None:
    m.graph.output.append(helper.make_tensor_value_info("rows", TensorProto.FLOAT, [1, 16]))


def side(ports: str, which: int, size: int) -> Change:
    return lambda m: setattr(getattr(m.graph, ports)[0].type.tensor_type.shape.dim[which], "dim_value", size)


def kind(ports: str, to: int) -> Change:
    return lambda m: setattr(getattr(m.graph, ports)[0].type.tensor_type, "elem_type", to)


def doubles(m: onnx.ModelProto) -> None:
    kind("input", TensorProto.DOUBLE)(m)
    kind("output", TensorProto.DOUBLE)(m)
    weight = numpy_helper.to_array(m.graph.initializer[0]).astype(np.float64)
    m.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "weight"))


def wider(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((16, 5), np.float32), "weight"))
    side("output", 1, 5)(m)


def larger(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((32, 3), np.float32), "weight"))
    side("input", 2, 8)(m)


@pytest.mark.parametrize("target", OPENED)
@pytest.mark.parametrize("change", [second_input, second_output, doubles, wider, larger])
def test_graphs_that_are_not_as_their_texts_say_are_told_before_any_image(change: Change, target: str, tmp_path: Path) -> None:
    model = tiny(target)
    change(model)
    with pytest.raises(PmqError, match="but its texts state float32"):
        run(saved(model, tmp_path / "m.onnx"), [tmp_path / "no-image.png"])


@pytest.mark.parametrize("target", OPENED)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_no_numbers_are_told(value: float, target: str, image: Path, tmp_path: Path) -> None:
    model = tiny(target)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((16, 3), value, np.float32), "weight"))
    with pytest.raises(PmqError, match="infinite or not a number"):
        run(saved(model, tmp_path / "m.onnx"), [image])


@pytest.mark.parametrize("error", [RuntimeError("no memory"), ValueError("Dimension\nmismatch"), IndexError(), MemoryError()])
def test_whatever_a_runtime_raises_is_told(error: Exception) -> None:
    def fail(_: Any) -> Any:
        raise error

    with pytest.raises(PmqError, match=r"^LiteRT cannot compute the model: [\w ]+$"):
        Session("LiteRT", fail, [], [])(np.zeros(1))


def test_what_fails_while_it_runs_is_told(image: Path, tmp_path: Path) -> None:
    model = tiny()
    model.graph.initializer.append(numpy_helper.from_array(np.array([7]), "seven"))
    model.graph.node[1].output[0] = "products"
    model.graph.node.extend(  # a shape that is known only when there is an image, and fits none
        [
            helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.INT64),
            helper.make_node("ReduceMax", ["numbers"], ["most"], keepdims=0),
            helper.make_node("Add", ["seven", "most"], ["shape"]),
            helper.make_node(
                "ConstantOfShape", ["shape"], ["ones"], value=helper.make_tensor("one", TensorProto.FLOAT, [1], [1])
            ),
            helper.make_node("Sub", ["rows", "ones"], ["laid"]),
            helper.make_node("ReduceSum", ["laid"], ["sum"], keepdims=0),
            helper.make_node("Add", ["products", "sum"], ["output"]),
        ]
    )
    with pytest.raises(PmqError, match="cannot compute the model"):
        run(saved(model, tmp_path / "m.onnx"), [image])


def outside(m: onnx.ModelProto, location: str = "weights.bin") -> None:
    tensor = m.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def outside_of_an_attribute(m: onnx.ModelProto) -> None:
    m.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.zeros(3, np.float32))))
    tensor = m.graph.node[0].attribute[0].t
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value="/etc/passwd")


def endless(m: onnx.ModelProto) -> None:
    step = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["x"], ["y"])]
    ports = {
        "i": TensorProto.INT64,
        "go": TensorProto.BOOL,
        "x": TensorProto.FLOAT,
        "on": TensorProto.BOOL,
        "y": TensorProto.FLOAT,
    }
    infos = [helper.make_tensor_value_info(name, to, None) for name, to in ports.items()]
    m.graph.node.insert(
        0, helper.make_node("Loop", ["", "", "image"], ["x"], body=helper.make_graph(step, "b", infos[:3], infos[3:]))
    )


def quantized(to: int) -> Change:
    def change(m: onnx.ModelProto) -> None:
        m.graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), "scale"))
        m.graph.initializer.append(helper.make_tensor("zero", to, [], [0]))
        m.graph.node[0].input[0] = "widened"
        m.graph.node.insert(0, helper.make_node("DequantizeLinear", ["narrow", "scale", "zero"], ["widened"]))
        m.graph.node.insert(0, helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["narrow"]))

    return change


def function(m: onnx.ModelProto) -> None:
    node = helper.make_node("Identity", ["a"], ["b"])
    m.functions.append(helper.make_function("own", "same", ["a"], ["b"], [node], [helper.make_opsetid("", 21)]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (outside, "'weight' in another file"),
        (lambda m: outside(m, "/dev/zero"), "'weight' in another file"),
        (lambda m: outside(m, "../../etc/passwd"), "'weight' in another file"),
        (outside_of_an_attribute, "in another file"),
        (endless, "a graph within 'Loop'"),
        (function, "functions"),
        (quantized(TensorProto.UINT4), "anything but 8 or 16 bits"),
        (lambda m: m.ClearField("graph"), "not an ONNX model"),
        (lambda m: setattr(m.graph.node[1], "op_type", "Nonsense"), "not an ONNX model"),
        (lambda m: m.graph.node[1].input.__setitem__(0, "nowhere"), "not an ONNX model"),
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, 2**40), "not an ONNX model"),
    ],
)
def test_what_pmq_does_not_write_never_reaches_a_runtime(change: Change, said: str, tmp_path: Path) -> None:
    model = tiny()
    change(model)
    path = saved(model, tmp_path / "m.onnx")
    for read in (read_onnx, target_of, TARGETS["onnxruntime"].session, TARGETS["openvino"].session, TARGETS["openvino"].stored):
        with pytest.raises(PmqError, match=said):
            read(path)


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.UINT16])
def test_inputs_of_eight_and_sixteen_bits_are_taken(kind: int, tmp_path: Path) -> None:
    model = tiny()
    quantized(kind)(model)
    assert target_of(saved(model, tmp_path / "m.onnx")).name == "onnxruntime"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        *((content, "not an ONNX model") for content in (b"", b"no model", b"\xff" * 100, tiny().SerializeToString()[:200])),
        (tiny().SerializeToString().replace(b"onnxruntime", b"onnx\xff\xfe\xfdtime"), "as its target"),
        (tiny().SerializeToString().replace(b"Flatten", b"Flat\xff\xfe\xfd"), "not an ONNX model"),
    ],
)
def test_what_is_no_model_is_told(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(PmqError, match=said):
        target_of(path)


@pytest.mark.parametrize("suffix", [".onnx", ".tflite", ".pte"])
def test_what_is_no_file_is_told_whatever_is_installed(suffix: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    for name, said in (("pipe", "a folder or a pipe"), ("folder", "a folder or a pipe"), ("none", "does not exist; pmq deploy")):
        with pytest.raises(PmqError, match=said):
            target_of(tmp_path / f"{name}{suffix}")


@pytest.mark.parametrize("name", ["litert", "executorch"])
def test_a_runtime_that_is_missing_is_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = TARGETS[name]
    monkeypatch.setitem(sys.modules, target.runtime, None)
    path = tmp_path / f"m{target.suffix}"
    path.write_bytes(b"a model, perhaps")
    for read in (target_of, target.session, target.metadata, target.stored):
        with pytest.raises(PmqError, match=rf"pip install 'pmq\[{target.extra}\]'"):
            read(path)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("litert", "names 'litert' as its target; files that end with .onnx are for onnxruntime, openvino, openvino-bf16"),
        ("x" * 10_000, "names 'xxx"),
        ("", "names '' as its target"),
    ],
)
def test_targets_of_another_suffix_are_told(named: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(PmqError, match=said) as refused:
        target_of(saved(tiny(named), tmp_path / "m.onnx"))
    assert len(str(refused.value)) < 700


def test_other_files_are_none_of_ours(tmp_path: Path) -> None:
    model = tiny()
    del model.metadata_props[:]
    with pytest.raises(PmqError, match="was not written by pmq deploy: it names no target"):
        target_of(saved(model, tmp_path / "m.onnx"))
    with pytest.raises(PmqError, match=r"whose files end with \.onnx, \.pte, \.tflite"):
        target_of(saved(model, tmp_path / "m.pt"))
