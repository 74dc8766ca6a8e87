"""LiteRT (TensorFlow Lite) for Android and elsewhere: 8- and 4-bit weights, inputs rounded a token at a time, in one file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pmq.core.errors import PmqError, one_line
from pmq.core.files import quoted, read_bytes, write_bytes
from pmq.runtimes.base import Target, register
from pmq.runtimes.labels import read_texts
from pmq.runtimes.modes import DYNAMIC4, DYNAMIC4_GROUPS, DYNAMIC8, FLOAT, HALF
from pmq.runtimes.session import MOST, NATIVE, Port, Session, named

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pmq.runtimes.layer import DeployLayer

#: of the entry of a file's metadata that holds ours
NAME = "pmq"


@register
class LiteRT(Target):
    """Layers as FULLY_CONNECTED, of which XNNPACK makes integer products where the weight is of integers.

    It finds each token's range when the token is there, so there is nothing to calibrate.
    """

    name = "litert"
    suffix = ".tflite"
    extra = "litert"
    runtime = "ai_edge_litert"
    packages = ("litert_torch",)
    int8 = DYNAMIC8
    modes = (DYNAMIC8, DYNAMIC4, DYNAMIC4_GROUPS, HALF, FLOAT)
    open_batch = False

    def skeleton(self, model: nn.Module, layers: list[str], image: Tensor, dynamic_batch: bool = False) -> Any:
        """A graph as its schema's objects."""
        from pmq.runtimes.tflite import take_skeleton

        return take_skeleton(model, layers, image)

    def single(self, layer: DeployLayer, shape: tuple[int, ...]) -> Any:
        """A graph as its schema's objects."""
        from pmq.runtimes.tflite import single

        return single(layer, shape)

    def build(self, skeleton: Any, layers: Sequence[DeployLayer]) -> Any:
        """A graph as its schema's objects."""
        from pmq.runtimes.tflite import fill

        return fill(skeleton, layers, emit)

    def save(self, built: Any, path: Path, metadata: Mapping[str, str]) -> list[Path]:
        """One file, the texts among its metadata."""
        from pmq.runtimes.tflite import packed, with_metadata

        return [write_bytes(path, packed(with_metadata(built, NAME, json.dumps(dict(metadata)))))]

    def session(self, model: Any, threads: int = 1) -> Session:
        """An interpreter on the CPU."""
        self.require(running=True)
        from ai_edge_litert.interpreter import Interpreter

        from pmq.runtimes.tflite import packed

        content = read_bytes(model, "model file", most=MOST) if isinstance(model, Path) else packed(model)
        try:
            interpreter = Interpreter(model_content=content, num_threads=threads)
            interpreter.allocate_tensors()
            sources, results = interpreter.get_input_details(), interpreter.get_output_details()
        except NATIVE as error:
            raise PmqError(f"LiteRT cannot load {named(model)}: {one_line(error)}") from None

        def run(images: Any) -> Any:
            interpreter.set_tensor(sources[0]["index"], images)
            interpreter.invoke()
            return interpreter.get_tensor(results[0]["index"])

        return Session("LiteRT", run, [_port(each) for each in sources], [_port(each) for each in results])

    def stored(self, path: Path) -> dict[str, str]:
        """By types of weights."""
        return dict(self._read(path, lambda tflite, content: tflite.read_layers(tflite.unpacked(content))))

    def metadata(self, path: Path) -> dict[str, str]:
        """Of the entry that is ours."""
        return read_texts(self._read(path, lambda tflite, content: tflite.metadata(content, NAME)), path)

    def _read(self, path: Path, parse: Callable[[Any, bytes], Any]) -> Any:
        content = read_bytes(path, "model file", "; pmq deploy writes one", MOST)
        self.require(running=True)
        from pmq.runtimes import tflite

        try:
            return parse(tflite, content)
        except Exception as error:  # whatever a parser of bytes that are no model stumbles over
            raise PmqError(f"{quoted(path)} is no LiteRT model: {one_line(error)}") from None


def _port(of: Mapping[str, Any]) -> Port:
    return Port(np.dtype(of["dtype"]).name, tuple(None if side < 0 else int(side) for side in of["shape_signature"]))


def emit(b: Any, layer: DeployLayer, x: int, y: int) -> None:
    """Add a layer to a graph, from tensor ``x`` to tensor ``y``."""
    outputs, inputs = layer.shape
    to = y
    if layer.patch:
        x = b.patches(x, layer.patch)
        to = b.tensor((*b.shape(x)[:-1], outputs))
    if layer.codes is None:
        half = layer.weight.quantizer == "half"
        value = layer.value.reshape(outputs, inputs).astype(np.float16 if half else np.float32)
        weight = b.constant(value, f"{layer.name}.weight")
        weight = b.widened(weight) if half else weight
    else:
        assert layer.scales is not None
        name, group = f"{layer.name}.weight", layer.weight.group_size
        weight = b.int4(layer.codes, name) if layer.weight.bits == 4 else b.constant(layer.codes.astype(np.int8), name)
        b.quantized(weight, layer.scales, group)
    b.product(x, weight, None if layer.bias is None else b.constant(layer.bias), to)
    if layer.patch:
        b.transpose(to, (0, 3, 1, 2), y)
