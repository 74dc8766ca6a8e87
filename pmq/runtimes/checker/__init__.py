"""Bundles: a deployed file's proof that travels, with inputs, expected tensors and programs that check them on a device."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import count
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmq.core.files import write_bytes, write_text

Array = NDArray[Any]
#: number of values of each layer's output that a bundle contains for an image, at most
VALUES = 4096
#: factor on the relative error of the file where it was proved, within which a device's own rounding stays
DRIFT = 3.0
#: relative error that is allowed anyway
ROUNDING = 0.002

#: file with the facts of a bundle
FACTS = "bundle.txt"
_PYTHON, _NODE, _CPP = "check.py", "check.mjs", "check.cpp"
_ONNXRUNTIME = {name: name for name in (_PYTHON, _NODE, _CPP)} | {
    "load.py": "load_onnxruntime.py",
    "load.hpp": "load_onnxruntime.hpp",
}
_OPENVINO = {_PYTHON: _PYTHON, _CPP: _CPP, "load.py": "load_openvino.py", "load.hpp": "load_openvino.hpp"}
_LITERT = {_PYTHON: _PYTHON, "load.py": "load_litert.py"}
#: target -> program or header of a bundle -> file among the parts
PROGRAMS: Mapping[str, Mapping[str, str]] = {
    "onnxruntime": _ONNXRUNTIME,
    "qdq": _ONNXRUNTIME,
    "openvino": _OPENVINO,
    "openvino-bf16": _OPENVINO,
    "litert": _LITERT,
    "litert-static": _LITERT,
    "executorch": {_PYTHON: _PYTHON, "load.py": "load_executorch.py"},
}
#: target -> what a loader says instead, where two targets share it
REPLACED = {"openvino-bf16": (('PRECISION = "f32"', 'PRECISION = "bf16"'), ("element::Type_t::f32", "element::Type_t::bf16"))}
#: program -> how it is started
STARTED = {
    _PYTHON: "python check.py [FILE]",
    _NODE: "npm install onnxruntime-node && node check.mjs [FILE]",
    _CPP: "g++ -std=c++17 -O2 check.cpp -o check {flags} && ./check [FILE]",
}
#: header -> flags of a C++ compiler
FLAGS = {"load_onnxruntime.hpp": "-lonnxruntime", "load_openvino.hpp": "-lopenvino"}


@dataclass(frozen=True)
class Observed:
    """A tensor that a bundle checks.

    Attributes:
        name: name of the tensor in the file.
        simulated: its values in the simulation, ``(N, ...)``.
        computed: its values in the file where it was proved, ``(N, ...)``.
    """

    name: str
    simulated: Array
    computed: Array

    @property
    def stride(self) -> int:
        """Distance of the values that the bundle contains: it meets every channel, whichever axis these are on."""
        sides = self.simulated.shape[1:]
        least = max(1, -(-int(np.prod(sides)) // VALUES))
        return next(stride for stride in count(least) if all(gcd(stride, side) == 1 for side in sides))

    def sampled(self, values: Array) -> Array:
        """Return the values ``(N, V)`` that the bundle contains."""
        flat = values.reshape(len(values), -1).astype(np.float32)
        return flat[:, : flat.shape[1] // self.stride * self.stride : self.stride]

    @property
    def limit(self) -> float:
        """Largest relative error of an image's values that is allowed."""
        expected, computed = self.sampled(self.simulated), self.sampled(self.computed)
        errors = np.linalg.norm(computed - expected, axis=1) / np.maximum(np.linalg.norm(expected, axis=1), 1e-12)
        return DRIFT * float(errors.max()) + ROUNDING


def write_bundle(
    folder: Path, file: Path, target: str, threads: int, inputs: Array, tensors: Sequence[Observed], probes: bytes
) -> Path:
    """Write a bundle.

    Args:
        folder: folder to write to, beside the file.
        file: the deployed file.
        target: its target.
        threads: threads with which it was timed.
        inputs: inputs of the file, ``(N, 1, C, H, W)`` or ``(N, 1, H, W, C)``.
        tensors: what is checked, in the order in which it is computed; the last is the model's output.
        probes: bytes that make the file return these tensors when they follow its own.

    Returns:
        The folder.
    """
    rows = []
    for tensor in tensors:
        n_values = tensor.sampled(tensor.simulated).shape[1]
        rows.append(f"tensor {n_values} {tensor.stride} {tensor.limit:.6g} {tensor.name}")
    facts = [
        f"file {file.name}",
        f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}",
        f"threads {threads}",
        f"images {len(inputs)}",
        f"input {inputs.dtype} {' '.join(map(str, inputs.shape[1:]))}",
    ]
    expected = np.concatenate([tensor.sampled(tensor.simulated).reshape(-1) for tensor in tensors])
    write_text(folder / FACTS, "\n".join([*facts, *rows]) + "\n")
    write_bytes(folder / "inputs.bin", np.ascontiguousarray(inputs).tobytes())
    write_bytes(folder / "expected.bin", expected.astype("<f4").tobytes())
    write_bytes(folder / "probes.bin", probes)
    parts = files(__name__) / "parts"
    for name, part in PROGRAMS[target].items():
        text = (parts / part).read_text("utf-8")
        for old, new in REPLACED.get(target, ()):
            text = text.replace(old, new)
        write_text(folder / name, text)
    write_text(folder / "README.md", _readme(file, target, len(inputs), len(tensors)))
    return folder


def _readme(file: Path, target: str, n_images: int, n_tensors: int) -> str:
    programs = PROGRAMS[target]
    flags = FLAGS.get(programs.get("load.hpp", ""), "")
    commands = [STARTED[name].format(flags=flags) for name in programs if name in STARTED]
    compared = "the outputs of its layers"
    if n_tensors == 1:
        compared = "its output, the only tensor that can be read on a device,"
    return f"""\
# Check of {file.name}

Copy this folder and `{file.name}` to a device (the file lies above the folder, or is named as an argument), and run one of

```
{chr(10).join(commands)}
```

in this folder. It runs the file on {n_images} images and compares {compared} with
the simulation's, prints the first tensor that differs by more than rounding can explain, on how many images the decision is the
simulation's, and the median latency of 30 passes. The exit status is 1 if a tensor differs.

`bundle.txt` has the facts and, for each tensor, the number of values, the distance between them in the flattened tensor, the
largest relative error allowed and the name. `inputs.bin` has the inputs, `expected.bin` the simulation's values (float32), one
tensor after the other, image by image. `probes.bin` follows the file's bytes to make the graph return its layers' outputs. The
pictures are what the inputs show.
"""
