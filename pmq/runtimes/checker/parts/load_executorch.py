"""Load a file into ExecuTorch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
from executorch.runtime import Runtime


def load(content: bytes, threads: int) -> Callable[[Any], dict[str, Any]]:
    """Return a function from an image to the output, by the name ``output``."""
    _unsafe_reset_threadpool(threads)
    program = Runtime.get().load_program(content)
    method = program.load_method("forward")

    def run(x: Any, _program: Any = program) -> dict[str, Any]:
        return {"output": np.array(method.execute([torch.from_numpy(x)])[0])}

    return run
