"""AIMET: encodings of version 1.0.0 and the ONNX model that they are for."""

from __future__ import annotations

from typing import Any

from pmq.core.allocation import pmq_version
from pmq.exports.base import register
from pmq.exports.encodings import Encoding, Encodings
from pmq.exports.fit import ALL_BITS


@register
class Aimet(Encodings):
    """Format that ``aimet_onnx.quantsim.load_encodings_to_sim`` reads."""

    name = "aimet"
    tool = "AIMET"
    suffix = ".encodings"
    weight_bits = activation_bits = ALL_BITS

    def layout(self, encodings: list[Encoding]) -> dict[str, Any]:
        """Return the encodings of activations and of parameters."""
        return {
            "producer": {"package": "pmq", "version": pmq_version()},
            "version": "1.0.0",
            "activation_encodings": [_entry(each) for each in encodings if not each.is_weight],
            "param_encodings": [_entry(each) for each in encodings if each.is_weight],
        }


def _entry(encoding: Encoding) -> dict[str, Any]:
    grid = encoding.grid
    scale = grid.scale.reshape(-1)
    return {
        "name": encoding.tensor,
        "enc_type": "PER_CHANNEL" if scale.size > 1 else "PER_TENSOR",
        "dtype": "INT",
        "bw": grid.bits,
        "is_sym": grid.symmetric,
        "scale": scale.tolist(),
        "offset": (-grid.zero_point.reshape(-1)).tolist(),
    }
