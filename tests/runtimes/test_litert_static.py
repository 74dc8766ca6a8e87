"""Full-integer LiteRT files: LiteRT's kernels compute what NumPy computes on the same grids, and only between integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import pmq
from pmq.core import PmqError
from pmq.core.choice import Choice
from pmq.runtimes import TARGETS
from pmq.runtimes.layer import Convolution, DeployLayer
from pmq.runtimes.operand import DeployOperand
from tests.conftest import Tiny

pytest.importorskip("ai_edge_litert")
TARGET = TARGETS["litert-static"]
Array = NDArray[Any]
ROWS, WIDTH = 5, 16


class Graph:
    """An exported graph with placeholders, and the grids of its tensors."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.operands: dict[str, DeployOperand] = {}
        self.constants: dict[str, Array] = {}

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        domain = {"domain": "pmq"} if kind in ("Operand", "Layer") else {}
        self.nodes.append(helper.make_node(kind, inputs, [output], **domain, **attributes))
        return output

    def tap(self, source: str, bits: int, high: float, low: float | None = None) -> str:
        low = -high if low is None else low
        scale, zero = (high / 32767, 32768) if bits == 16 else ((high - low) / 255, round(-low / (high - low) * 255))
        parameters = {"scale": np.array([scale], np.float32), "zero_point": np.array([zero], np.float32)}
        name = f"{source}.tensor"
        self.operands[name] = DeployOperand(name, Choice(bits=bits, symmetric=bits == 16), parameters)
        return self.add("Operand", [source], f"{source}_q", operand=name)

    def model(self, shape: list[int], kind: int = onnx.TensorProto.FLOAT) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("image", kind, shape)],
            [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
        model.ir_version = 10
        return model

    def rounded(self, name: str, values: Array) -> Array:
        operand = self.operands[f"{name}.tensor"]
        scale, zero = (float(operand.parameters[key][0]) for key in ("scale", "zero_point"))
        rounded: Array = (np.clip(np.round(values / scale) + zero, 0, operand.top) - zero) * scale
        return rounded

    def layer(self, name: str, shape: tuple[int, ...], bits: int, source: str, **rest: Any) -> DeployLayer:
        rng, top = np.random.default_rng(1), 2 ** (bits - 1) - 1
        codes = rng.integers(-top, top + 1, (shape[0], int(np.prod(shape[1:]))))
        scales = (rng.uniform(0.5, 1, (shape[0], 1)) / top / 2).astype(np.float32)
        operand, weight = self.operands[f"{source}.tensor"], Choice(bits=bits, symmetric=True, granularity="channel")
        value, bias = (codes * scales).astype(np.float32).reshape(shape), rng.normal(size=shape[0]).astype(np.float32)
        return DeployLayer(name, weight, operand.choice, value, codes, scales, None, bias, operand, **rest)


def block(norm: int, softmax: int, total: int, hidden: int) -> tuple[Graph, list[DeployLayer]]:
    """A norm, attention, a sum and a layer."""
    g = Graph()
    g.constants = {
        "axis": np.array([-1], np.int64),
        "epsilon": np.array(1e-5, np.float32),
        "heads": np.array([1, ROWS, 2, WIDTH // 2], np.int64),
        "joined": np.array([1, ROWS, WIDTH], np.int64),
        "scale": np.array(0.35, np.float32),
        "from": np.array([1], np.int64),
        "to": np.array([6], np.int64),
        "one": np.array([1], np.int64),
    }
    x = g.tap("image", 8, 3)
    mean = g.tap(g.add("ReduceMean", [x, "axis"], "mean", keepdims=1), 16, 1)
    centered = g.tap(g.add("Sub", [x, mean], "centered"), 16, 4)
    square = g.tap(g.add("Mul", [centered, centered], "square"), 16, 16)
    variance = g.tap(g.add("ReduceMean", [square, "axis"], "variance", keepdims=1), 16, 4)
    positive = g.tap(g.add("Add", [variance, "epsilon"], "positive"), 16, 4)
    root = g.tap(g.add("Sqrt", [positive], "root"), 16, 2)
    n = g.tap(g.add("Div", [centered, root], "norm"), norm, 4)
    q = g.tap(g.add("Layer", [n], "q", layer="q", shape=[1, ROWS, WIDTH]), norm, 8)
    heads = g.add("Transpose", [g.add("Reshape", [q, "heads"], "split")], "heads_q", perm=[0, 2, 1, 3])
    keys = g.add("Transpose", ["split"], "keys", perm=[0, 2, 3, 1])
    scaled = g.add("Mul", [heads, "scale"], "scaled")
    logits = g.tap(g.add("MatMul", [scaled, keys], "logits"), norm, 60)
    weights = g.tap(g.add("Softmax", [logits], "softmax", axis=-1), softmax, 1, 0)
    values = g.tap(g.add("MatMul", [weights, heads], "values"), norm, 8)
    rows = g.add("Reshape", [g.add("Transpose", [values], "moved", perm=[0, 2, 1, 3]), "joined"], "rows")
    added = g.tap(g.add("Add", [rows, x], "total"), total, 10)
    gelu = g.tap(g.add("Gelu", [added], "gelu"), hidden, 8, -0.2)
    last = g.tap(g.add("Layer", [gelu], "last", layer="last", shape=[1, ROWS, 7]), hidden, 8)
    g.add("Slice", [g.add("Concat", [last, last], "both", axis=1), "from", "to", "one"], "output")
    return g, [g.layer("q", (WIDTH, WIDTH), 8, "norm"), g.layer("last", (7, WIDTH), 4, "gelu")]


def simulated(g: Graph, layers: list[DeployLayer], x: Array, quantized: bool = True) -> Array:
    from scipy.special import erf, softmax

    def r(name: str, values: Array) -> Array:
        return g.rounded(name, values) if quantized else values

    first, last = layers
    x = r("image", x)
    centered = r("centered", x - r("mean", x.mean(-1, keepdims=True)))
    variance = r("variance", r("square", centered**2).mean(-1, keepdims=True))
    normed = r("norm", centered / r("root", np.sqrt(r("positive", variance + 1e-5))))
    assert first.bias is not None
    assert last.bias is not None
    heads = r("q", normed @ first.value.T + first.bias).reshape(1, ROWS, 2, -1).transpose(0, 2, 1, 3)
    weights = r("softmax", softmax(r("logits", 0.35 * heads @ heads.transpose(0, 1, 3, 2)), -1))
    total = r("total", r("values", weights @ heads).transpose(0, 2, 1, 3).reshape(x.shape) + x)
    gelu = r("gelu", 0.5 * total * (1 + erf(total / np.sqrt(2))))
    output = r("last", gelu @ last.value.T + last.bias)
    return np.concatenate([output, output], 1)[:, 1:6]


@pytest.mark.parametrize("bits", [(8, 8, 8, 8), (16, 16, 16, 16), (16, 8, 16, 8), (8, 16, 8, 16)], ids=str)
def test_kernels_compute_what_was_simulated(bits: tuple[int, int, int, int], tmp_path: Path) -> None:
    g, layers = block(*bits)
    model = g.model([1, ROWS, WIDTH])
    x = np.random.default_rng(0).normal(size=(1, ROWS, WIDTH)).astype(np.float32)
    path = TARGET.save(TARGET.build(model, layers, list(g.operands.values())), tmp_path / "m.tflite", {})[0]
    found, wanted = TARGET.session(path)(x), simulated(g, layers, x)
    step = 16 / 255  # the grid of 8 bits of the output, or of a tensor before it: a value between two levels may take either
    assert float(np.abs(found - wanted).max()) <= 1.01 * step
    assert float(np.linalg.norm(found - wanted)) < float(np.linalg.norm(simulated(g, layers, x, quantized=False))) * 0.02
    stored = TARGET.stored(path)
    assert {name: int(label) for name, label in stored.items() if name.endswith(".tensor")} == {
        name: operand.choice.bits for name, operand in g.operands.items()
    }
    assert (stored["q"], stored["last"]) == (f"w8 x {bits[0]}", f"w4 x {bits[3]}")
    plain = TARGET.session(TARGET.build(model, [layer.plain() for layer in layers]))
    np.testing.assert_allclose(plain(x), simulated(g, layers, x, quantized=False), atol=1e-5)


@pytest.mark.parametrize("scale", [[0.02, 0.03, 0.04], [0.02, 0.02, 0.02]], ids=["channels differ", "one number"])
def test_pixels_are_prepared_in_integers(scale: list[float]) -> None:
    g = Graph()
    g.constants = {
        "factor": np.array(scale, np.float32).reshape(1, 3, 1, 1),
        "shift": np.array([-2, -2.1, -1.9] if len(set(scale)) > 1 else [-2.0] * 3, np.float32).reshape(1, 3, 1, 1),
        "sides": np.array([1, 4, 4], np.int64),
    }
    g.add("Mul", [g.add("Cast", ["image"], "float", to=1), "factor"], "product")
    x = g.tap(g.add("Add", ["product", "shift"], "prepared"), 8, 8, -2.2)
    y = g.tap(g.add("Layer", [x], "patches", layer="patches"), 8, 12)
    g.add("Reshape", [y, "sides"], "output")
    convolution = Convolution((2, 2), ((0, 0), (0, 0)), (1, 1))
    layer = g.layer("patches", (4, 3, 2, 2), 8, "prepared", convolution=convolution)
    built = TARGET.build(g.model([1, 3, 4, 4], onnx.TensorProto.UINT8), [layer], list(g.operands.values()))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 4)).astype(np.uint8)
    prepared = g.rounded("prepared", pixels * g.constants["factor"] + g.constants["shift"])
    patches = prepared.reshape(1, 3, 2, 2, 2, 2).transpose(0, 2, 4, 1, 3, 5).reshape(1, 4, 12)
    assert layer.bias is not None
    wanted = g.rounded("patches", (patches @ layer.value.reshape(4, 12).T + layer.bias).transpose(0, 2, 1))
    assert float(np.abs(TARGET.session(built)(pixels) - wanted).max()) <= 1.01 * 24 / 255


@pytest.mark.parametrize("bits", ["w8a8", "w8a16"])
def test_litert_static_files_are_proved(bits: str, tmp_path: Path) -> None:
    model = pmq.create_model()
    images = pmq.open_images(None, model).calibration_images(64, 0)
    deployment = pmq.deploy(model, bits, "litert-static", images[32:], tmp_path, calibration_images=images[:32], n_passes=3)
    assert [name for name, check in deployment.proof.items() if not check.passed] == []
    assert deployment.proof["bits"].measured == 0


def test_a_variance_that_16_bits_cannot_tell_from_zero_is_told(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(PmqError, match=r"'blocks.0.norm1.*' is not finite .* the variance of a norm rounds to zero"):
        pmq.deploy(tiny.module, "w8a16", "litert-static", tiny.images, tmp_path, calibration_images=tiny.images, n_passes=3)
