"""Reading of the weights of a Core ML model back from its program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def stored_weights(file: Path) -> dict[str, tuple[int, Any]]:
    """Bits and values of the weights of a package, by name; points in names are underscores."""
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.models import MLModel

    model = MLModel(str(file), skip_model_load=True)
    spec = model.get_spec()
    assert [each.type.WhichOneof("Type") for each in spec.description.input] == ["imageType"]
    program = load(spec, spec.specificationVersion, model.weights_dir)
    weights = {}
    for operation in program.functions["main"].operations:
        if operation.op_type == "constexpr_blockwise_shift_scale":
            bits, integers = _integers(operation.data)
            weights[operation.name.removesuffix("_scaled")] = bits, integers * operation.scale.val.astype(np.float64)
    return weights


def _integers(data: Any) -> tuple[int, Any]:
    if data.op.op_type != "constexpr_lut_to_dense":
        return data.dtype.get_bitwidth(), data.val.astype(np.float64)
    table = data.op.lut.val.reshape(-1).astype(np.float64)
    return int(np.log2(table.size)), table[data.op.indices.val.astype(np.int64)]
