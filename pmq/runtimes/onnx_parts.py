"""Builder of ONNX nodes and constants that several targets share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pmq.runtimes.layer import DeployLayer
from pmq.runtimes.skeleton import Part

Array = NDArray[Any]
#: last part of the name of the node that determines a layer's mode, by which a reader identifies it
PRODUCT = "product"


class PartBuilder:
    """Collector of the nodes and constants of one layer, all named after it."""

    def __init__(self, layer: DeployLayer) -> None:
        self.name = layer.name
        self.part = Part([], [])

    def constant(self, leaf: str, value: Array) -> str:
        """Add a constant; return its name."""
        name = f"{self.name}.{leaf}"
        self.part.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def packed(self, leaf: str, data: Array, kind: int, shape: tuple[int, ...]) -> str:
        """Add a constant of a type that numpy lacks, from its bytes; return its name."""
        name = f"{self.name}.{leaf}"
        self.part.constants.append(helper.make_tensor(name, kind, shape, data.tobytes(), raw=True))
        return name

    def node(self, op: str, inputs: list[str], leaf: str, output: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        output = output or f"{self.name}/{leaf}"
        name = f"{self.name}/{leaf}"
        self.part.nodes.append(
            helper.make_node(op, inputs, [output], name if leaf == PRODUCT else "", domain=domain, **attributes)
        )
        return output

    def grid(self, layer: DeployLayer) -> tuple[str, str]:
        """Add scale and zero point of the input; return their names."""
        assert layer.grid is not None
        scale, zero = np.array(layer.grid[0], np.float32), np.array(layer.grid[1], np.uint8)
        return self.constant("input.scale", scale), self.constant("input.zero", zero)

    def float_weight(self, layer: DeployLayer) -> str:
        """Add the weight, stored in its chosen format; return the name of the FP32 tensor ``(I, O)``."""
        return self._floats(layer, layer.value.reshape(layer.shape).T)

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
        """Convolve in FP32 with the weight stored in its chosen format."""
        self.convolution(layer, x, self._floats(layer, layer.value), y)

    def kernel(self, layer: DeployLayer) -> str:
        """Add the integers of a convolution's weight; return their name."""
        assert layer.codes is not None
        return self.constant("weight", layer.codes.reshape(layer.value.shape).astype(np.int8))

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
        return self.node("Reshape", [x, self.constant(leaf, np.array(shape, np.int64))], leaf)

    def map(self, rows: str, y: str) -> None:
        """Transpose output rows ``(B, h, w, O)`` to the map ``(B, O, h, w)``."""
        self.node("Transpose", [rows], "map", y, perm=[0, 3, 1, 2])


#: ONNX's code of the 4-bit integer type
INT4 = TensorProto.INT4
