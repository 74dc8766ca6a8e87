"""Load a file into OpenVINO."""

import io
from collections.abc import Callable
from typing import Any

import openvino

PRECISION = "f32"


def load(content: bytes, threads: int) -> Callable[[Any], dict[str, Any]]:
    """Return a function from an image to the tensors that the graph returns, by name."""
    settings = {"INFERENCE_PRECISION_HINT": PRECISION, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    settings |= {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    core = openvino.Core()
    model = core.compile_model(core.read_model(io.BytesIO(content)), "CPU", settings)
    names = [output.get_any_name() for output in model.outputs]

    def run(x: Any) -> dict[str, Any]:
        results = model([x])
        return {name: results[i].copy() for i, name in enumerate(names)}

    return run
