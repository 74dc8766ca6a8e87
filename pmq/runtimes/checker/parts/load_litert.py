"""Load a file into LiteRT."""

from collections.abc import Callable
from typing import Any

from ai_edge_litert.interpreter import Interpreter


def load(content: bytes, threads: int) -> Callable[[Any], dict[str, Any]]:
    """Return a function from an image to the output, by the name ``output``."""
    interpreter = Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()

    def run(x: Any) -> dict[str, Any]:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        interpreter.invoke()
        return {"output": interpreter.get_tensor(interpreter.get_output_details()[0]["index"])}

    return run
