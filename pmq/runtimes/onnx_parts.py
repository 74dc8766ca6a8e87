"""Builder of ONNX nodes and constants that several targets share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from pmq.runtimes.layer import DeployLayer
from pmq.runtimes.onnx_builder import PRODUCT, NodeBuilder
from pmq.runtimes.onnx_quantizers import values
from pmq.runtimes.packed import split

Array = NDArray[Any]


class PartBuilder(NodeBuilder):
    """Builder of a layer: its weight in the format that is stored, and its product."""

    def integers(self, layer: DeployLayer, shape: tuple[int, ...], codes: Array) -> str:
        """Add the integers ``codes`` of a weight in ``shape``, packed if they have fewer than 8 bits; return their name.

        Integers of a symmetric grid are int8; others are uint8. Those of free levels are looked up after unpacking.
        """
        codes, bits = codes.reshape(shape), layer.weight.bits
        if bits == 8:
            return self.constant("weight", codes.astype(np.int8 if layer.zeros is None else np.uint8))
        sums = list[str]()
        middle = 2 ** (bits - 1)
        around = codes if layer.zeros is None else codes - middle
        if layer.levels is not None:
            around = np.searchsorted(layer.levels, codes) - middle
        for i, digit in enumerate(split(around, bits)):
            packed = self.constant("weight" if i == 0 else f"weight.{i}", digit.packed)
            table = self.shared(f"table {i} of {bits} bits", digit.table)
            part = self.node("Gather", [table, self.node("Cast", [packed], f"index{i}", to=TensorProto.INT32)], f"digit{i}")
            if around.size % (8 // digit.bits):
                flat = self._reshape(part, f"flat{i}", [-1])
                part = self.node("Slice", [flat, *(self.shared(f"[{n}]", np.array([n])) for n in (0, around.size))], f"cut{i}")
            sums.append(self._reshape(part, f"part{i}", list(shape)))
        total = sums[0]
        for i, part in enumerate(sums[1:]):
            total = self.node("Add", [total, part], f"sum{i}")
        if layer.levels is not None:  # negative indices count from the end of a table
            table = self.constant("weight.levels", np.roll(layer.levels, middle).astype(np.int8))
            return self.node("Gather", [table, self.node("Cast", [total], "index", to=TensorProto.INT32)], "levels")
        if layer.zeros is None:
            return total
        offset = self.shared(f"middle of {bits} bits", np.array(middle, np.int8))
        return self.node("Cast", [self.node("Add", [total, offset], "unsigned")], "codes", to=TensorProto.UINT8)

    def float_weight(self, layer: DeployLayer) -> str:
        """Add the weight, stored in its chosen format; return the name of the FP32 tensor ``(I, O)``."""
        if layer.codes is not None:
            return self.decoded(layer, layer.shape[::-1], layer.codes.T)
        return self._floats(layer, layer.value.reshape(layer.shape).T)

    def decoded(self, layer: DeployLayer, shape: tuple[int, ...], codes: Array) -> str:
        """Add a weight stored as integers; return the name of its FP32 values in ``shape``, ``(I, O)`` or ``(O, ...)``.

        A runtime computes the values while it loads the file.
        """
        assert layer.scales is not None
        floats = self.node("Cast", [self.integers(layer, shape, codes)], "floats", to=TensorProto.FLOAT)
        (outputs, groups), linear = layer.scales.shape, len(shape) == 2
        sides = (outputs, *[1] * (len(shape) - 1))
        if groups > 1:
            split_sides = [groups, -1, outputs] if linear else [outputs, groups, -1]
            floats = self._reshape(floats, "groups", split_sides)
            sides = (groups, 1, outputs) if linear else (outputs, groups, 1)
        elif linear:
            sides = (1, outputs)

        def laid(parameter: Array) -> Array:
            return (parameter.T if linear else parameter).astype(np.float32).reshape(sides)

        if layer.zeros is not None:
            floats = self.node("Sub", [floats, self.constant("weight.zero", laid(layer.zeros))], "centred")
        floats = self.node("Mul", [floats, self.constant("weight.scale", laid(layer.scales))], "scaled weight")
        return self._reshape(floats, "widened", list(shape))

    def _floats(self, layer: DeployLayer, value: Array) -> str:
        """Add a weight, stored as FP16 or bfloat16 if chosen so; return the name of the FP32 tensor."""
        value = np.ascontiguousarray(value, np.float32)
        if layer.weight.quantizer == "half":
            weight = self.constant("weight", value.astype(np.float16))
        elif layer.weight.quantizer == "bfloat16":
            upper = (value.view(np.uint32) >> 16).astype(np.uint16)  # exact, because the values are already rounded to bfloat16
            weight = self.packed("weight", upper, TensorProto.BFLOAT16, value.shape)
        else:
            return self.constant("weight", value)
        return self.node("Cast", [weight], "widened", to=TensorProto.FLOAT)

    def zero_points(self, layer: DeployLayer) -> list[str]:
        """Add the zero points of a weight with one per output; return their names, none if its grid is symmetric."""
        return [] if layer.zeros is None else [self.constant("weight.zero", layer.zeros[:, 0].astype(np.uint8))]

    def product(self, layer: DeployLayer, x: str, weight: str, y: str) -> None:
        """Multiply by an FP32 weight ``(I, O)`` and add the bias."""
        if layer.bias is None:
            self.node("MatMul", [x, weight], PRODUCT, y)
        else:
            product = self.node("MatMul", [x, weight], PRODUCT)
            self.node("Add", [product, self.constant("bias", layer.bias)], "sum", y)

    def convolution(self, layer: DeployLayer, x: str, weight: str, y: str) -> None:
        """Convolve with an FP32 weight and add the bias."""
        geometry = layer.convolution
        assert geometry is not None
        attributes = self.sides(layer) | ({"output_padding": list(geometry.output_padding)} if geometry.transposed else {})
        bias = [] if layer.bias is None else [self.constant("bias", layer.bias)]
        self.node("ConvTranspose" if geometry.transposed else "Conv", [x, weight, *bias], PRODUCT, y, **attributes)

    def sides(self, layer: DeployLayer) -> dict[str, Any]:
        """Return the attributes of a convolution's node."""
        geometry = layer.convolution
        assert geometry is not None
        pads = [before for before, _ in geometry.padding] + [behind for _, behind in geometry.padding]
        return {"strides": list(geometry.stride), "pads": pads, "dilations": list(geometry.dilation), "group": geometry.groups}

    def float_convolution(self, layer: DeployLayer, x: str, y: str) -> None:
        """Convolve in FP32 with the weight stored in its chosen format, and the input quantized as chosen."""
        if layer.operand is not None:
            x = values(self, layer.operand, x)
        weight = self._floats(layer, layer.value) if layer.codes is None else self.decoded(layer, layer.value.shape, layer.codes)
        self.convolution(layer, x, weight, y)

    def kernel(self, layer: DeployLayer) -> str:
        """Add the integers of a convolution's weight; return their name."""
        assert layer.codes is not None
        return self.integers(layer, layer.value.shape, layer.codes)

    def patches(self, layer: DeployLayer, x: str) -> str:
        """Rearrange an image ``(B, C, H, W)`` to ``(B, H / h, W / w, C * h * w)``, one row per patch; return its name."""
        assert layer.tile is not None
        (channels, *image), (height, width) = layer.image, layer.tile
        rows, columns = image[0] // height, image[1] // width
        split = self._reshape(x, "split", [0, channels, rows, height, columns, width])
        turned = self.node("Transpose", [split], "turned", perm=[0, 2, 4, 1, 3, 5])
        return self._reshape(turned, "patches", [0, rows, columns, channels * height * width])

    def _reshape(self, x: str, leaf: str, shape: list[int]) -> str:
        """Add a reshape, where a zero in ``shape`` leaves that side unchanged; return the name of its output."""
        return self.node("Reshape", [x, self.shared(f"sides {shape}", np.array(shape, np.int64))], leaf)

    def map(self, rows: str, y: str) -> None:
        """Transpose output rows ``(B, h, w, O)`` to the map ``(B, O, h, w)``."""
        self.node("Transpose", [rows], "map", y, perm=[0, 3, 1, 2])


#: ONNX's code of the 4-bit integer type
INT4 = TensorProto.INT4
