"""Load a file into onnxruntime."""

from collections.abc import Callable
from typing import Any

import onnxruntime


def load(content: bytes, threads: int) -> Callable[[Any], dict[str, Any]]:
    """Return a function from an image to the tensors that the graph returns, by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    image, names = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]
    return lambda x: dict(zip(names, session.run(None, {image: x}), strict=True))
