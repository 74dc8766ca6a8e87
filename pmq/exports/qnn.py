"""Qualcomm's QNN: quantization overrides and the ONNX model that they are for."""

from __future__ import annotations

from typing import Any

from pmq.exports.base import register
from pmq.exports.encodings import Encoding, Encodings


@register
class Qnn(Encodings):
    """Format of the option ``--quantization_overrides`` of ``qnn-onnx-converter``: encodings of version 0.6.1."""

    name = "qnn"
    tool = "Qualcomm AI Engine Direct (QNN)"
    suffix = ".json"
    weight_bits = (4, 8)
    activation_bits = (8,)
    asymmetric_weights = False

    def layout(self, encodings: list[Encoding]) -> dict[str, Any]:
        """Return the encodings of activations and of parameters by the name of the tensor, a list with an entry per scale."""
        return {
            "version": "0.6.1",
            "activation_encodings": {each.tensor: _entries(each) for each in encodings if not each.is_weight},
            "param_encodings": {each.tensor: _entries(each) for each in encodings if each.is_weight},
        }


def _entries(encoding: Encoding) -> list[dict[str, Any]]:
    grid = encoding.grid
    columns = (values.reshape(-1).tolist() for values in (grid.scale, grid.zero_point, grid.low, grid.high))
    return [
        {
            "bitwidth": grid.bits,
            "dtype": "int",
            "is_symmetric": str(grid.symmetric),
            "max": high,
            "min": low,
            "offset": -int(zero_point),
            "scale": scale,
        }
        for scale, zero_point, low, high in zip(*columns, strict=True)
    ]
