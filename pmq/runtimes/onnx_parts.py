"""Pieces of ONNX that several targets share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pmq.runtimes.layer import DeployLayer
from pmq.runtimes.skeleton import Part

Array = NDArray[Any]
#: last part of the name of the one node that says what a layer does, by which it is found again
PRODUCT = "product"


class PartBuilder:
    """Collects the nodes and constants of one layer, all named after it."""

    def __init__(self, layer: DeployLayer) -> None:
        self.name = layer.name
        self.part = Part([], [])

    def constant(self, leaf: str, value: Array) -> str:
        """Add a constant; give its name."""
        name = f"{self.name}.{leaf}"
        self.part.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def packed(self, leaf: str, data: Array, kind: int, shape: tuple[int, ...]) -> str:
        """Add a constant of a type that numpy has not, from its bytes; give its name."""
        name = f"{self.name}.{leaf}"
        self.part.constants.append(helper.make_tensor(name, kind, shape, data.tobytes(), raw=True))
        return name

    def node(self, op: str, inputs: list[str], leaf: str, output: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Add a node; give the name of its output."""
        output = output or f"{self.name}/{leaf}"
        name = f"{self.name}/{leaf}"
        self.part.nodes.append(
            helper.make_node(op, inputs, [output], name if leaf == PRODUCT else "", domain=domain, **attributes)
        )
        return output

    def grid(self, layer: DeployLayer) -> tuple[str, str]:
        """Scale and zero point of the input."""
        assert layer.grid is not None
        scale, zero = np.array(layer.grid[0], np.float32), np.array(layer.grid[1], np.uint8)
        return self.constant("input.scale", scale), self.constant("input.zero", zero)

    def float_weight(self, layer: DeployLayer) -> str:
        """The weight ``(I, O)`` in FP32, stored as it is chosen."""
        return self._floats(layer, layer.value.reshape(layer.shape).T)

    def _floats(self, layer: DeployLayer, value: Array) -> str:
        """A weight in FP32, stored as FP16 or bfloat16 where it is chosen so."""
        value = np.ascontiguousarray(value, np.float32)
        if layer.weight.quantizer == "half":
            weight = self.constant("weight", value.astype(np.float16))
        elif layer.weight.quantizer == "bfloat16":
            upper = (value.view(np.uint32) >> 16).astype(np.uint16)  # of values that are rounded already
            weight = self.packed("weight", upper, TensorProto.BFLOAT16, value.shape)
        else:
            return self.constant("weight", value)
        return self.node("Cast", [weight], "widened", to=TensorProto.FLOAT)

    def product(self, layer: DeployLayer, x: str, weight: str, y: str) -> None:
        """Multiply by a float weight ``(I, O)``, add the bias."""
        if layer.bias is None:
            self.node("MatMul", [x, weight], PRODUCT, y)
        else:
            product = self.node("MatMul", [x, weight], PRODUCT)
            self.node("Add", [product, self.constant("bias", layer.bias)], "sum", y)

    def convolution(self, layer: DeployLayer, x: str, weight: str, y: str) -> None:
        """Convolve with a float weight, add the bias."""
        how = layer.convolution
        assert how is not None
        attributes = self.sides(layer) | ({"output_padding": list(how.output_padding)} if how.transposed else {})
        bias = [] if layer.bias is None else [self.constant("bias", layer.bias)]
        self.node("ConvTranspose" if how.transposed else "Conv", [x, weight, *bias], PRODUCT, y, **attributes)

    def sides(self, layer: DeployLayer) -> dict[str, Any]:
        """Attributes of a convolution."""
        how = layer.convolution
        assert how is not None
        pads = [before for before, _ in how.padding] + [behind for _, behind in how.padding]
        return {"strides": list(how.stride), "pads": pads, "dilations": list(how.dilation), "group": how.groups}

    def float_convolution(self, layer: DeployLayer, x: str, y: str) -> None:
        """Convolve in FP32, the weight stored as it is chosen."""
        self.convolution(layer, x, self._floats(layer, layer.value), y)

    def kernel(self, layer: DeployLayer) -> str:
        """The integers of a convolution's weight."""
        assert layer.codes is not None
        return self.constant("weight", layer.codes.reshape(layer.value.shape).astype(np.int8))

    def patches(self, layer: DeployLayer, x: str) -> str:
        """Lay an image ``(B, C, H, W)`` out as ``(B, H / h, W / w, C * h * w)``, a row for each patch."""
        assert layer.tile is not None
        (channels, *image), (height, width) = layer.image, layer.tile
        rows, columns = image[0] // height, image[1] // width
        split = self._reshape(x, "split", [0, channels, rows, height, columns, width])
        turned = self.node("Transpose", [split], "turned", perm=[0, 2, 4, 1, 3, 5])
        return self._reshape(turned, "patches", [0, rows, columns, channels * height * width])

    def _reshape(self, x: str, leaf: str, shape: list[int]) -> str:
        """Zero leaves a side as it is."""
        return self.node("Reshape", [x, self.constant(leaf, np.array(shape, np.int64))], leaf)

    def map(self, rows: str, y: str) -> None:
        """Undo the layout for the output: ``(B, h, w, O)`` to ``(B, O, h, w)``."""
        self.node("Transpose", [rows], "map", y, perm=[0, 3, 1, 2])


#: ONNX's number of the type
INT4 = TensorProto.INT4
