"""LiteRT (TensorFlow Lite) for Android and elsewhere: 8- and 4-bit weights, inputs quantized per token, in one file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

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
    from pmq.runtimes.operand import DeployOperand

#: name of the entry of a file's metadata that contains pmq's texts
NAME = "pmq"


@register
class LiteRT(Target):
    """Target that writes layers as FULLY_CONNECTED, which XNNPACK computes as integer products where weights are integers.

    XNNPACK determines the range of each token at run time, so inputs need no calibration.
    """

    name = "litert"
    suffix = ".tflite"
    extra = "litert"
    runtime = "ai_edge_litert"
    packages: ClassVar[tuple[str, ...]] = ("litert_torch",)
    int8 = DYNAMIC8
    modes: ClassVar[tuple[str, ...]] = (DYNAMIC8, DYNAMIC4, DYNAMIC4_GROUPS, HALF, FLOAT)
    open_batch = False

    def skeleton(self, model: nn.Module, layers: list[str], image: Tensor, dynamic_batch: bool = False) -> Any:
        """Convert the model to a graph of schema objects with placeholders for ``layers``."""
        from pmq.runtimes.tflite import take_skeleton

        return take_skeleton(model, layers, image)

    def single(self, layer: DeployLayer, shape: tuple[int, ...]) -> Any:
        """Return a graph of schema objects with the placeholder of one layer."""
        from pmq.runtimes.tflite import single

        return single(layer, shape)

    def build(self, skeleton: Any, layers: Sequence[DeployLayer], operands: Sequence[DeployOperand] = ()) -> Any:
        """Insert layers into a graph of schema objects."""
        from pmq.runtimes.tflite import fill

        return fill(skeleton, layers, emit)

    def save(self, built: Any, path: Path, metadata: Mapping[str, str]) -> list[Path]:
        """Write one file that contains the texts in its metadata."""
        from pmq.runtimes.tflite import packed, with_metadata

        return [write_bytes(path, packed(with_metadata(built, NAME, json.dumps(dict(metadata)))))]

    def session(self, model: Any, threads: int = 1) -> Session:
        """Load a file or model into an interpreter on the CPU."""
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
            return [interpreter.get_tensor(results[0]["index"])]

        return Session("LiteRT", run, [_port(source) for source in sources], [_port(result) for result in results])

    def stored(self, path: Path) -> dict[str, str]:
        """Return each layer's mode, determined from the type of its weight."""
        return dict(self._read(path, lambda tflite, content: tflite.read_layers(tflite.unpacked(content))))

    def metadata(self, path: Path) -> dict[str, str]:
        """Return the texts in the metadata entry of pmq."""
        return read_texts(self._read(path, lambda tflite, content: tflite.metadata(content, NAME)), path)

    def _read(self, path: Path, parse: Callable[[Any, bytes], Any]) -> Any:
        content = read_bytes(path, "model file", "; pmq deploy writes one", MOST)
        self.require(running=True)
        from pmq.runtimes import tflite

        try:
            return parse(tflite, content)
        except Exception as error:  # the parser raises arbitrary exceptions for bytes that are no model
            raise PmqError(f"{quoted(path)} is not a LiteRT model: {one_line(error)}") from None


def _port(details: Mapping[str, Any]) -> Port:
    sides = tuple(None if side < 0 else int(side) for side in details["shape_signature"])
    return Port(np.dtype(details["dtype"]).name, sides)


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
