"""Models loaded into a runtime: their inputs, their outputs and their execution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pmq.core.errors import PmqError, one_line
from pmq.core.files import quoted

Floats = NDArray[Any]
#: names of the types of images and outputs in :class:`Port`
FP32 = "float32"
UINT8 = "uint8"
#: names of a graph's input and output
INPUT, OUTPUT = "image", "output"
#: end of the name of the tensor that a layer returns, after the layer's own name
LAYER_OUTPUT = ".output"
#: maximum size of a file in bytes: the limit of ONNX and of FlatBuffers
MOST = 2**31 - 1
#: Python exceptions to which pybind11 translates those of C++
NATIVE = (RuntimeError, ValueError, IndexError, OverflowError, MemoryError)


def layer_output(layer: str, call: int) -> str:
    """Return the name of the tensor that a layer returns when it is called for the ``call``-th time, from 1.

    >>> layer_output("head", 1), layer_output("head", 2)
    ('head.output', 'head:2.output')
    """
    return f"{layer}{f':{call}' if call > 1 else ''}{LAYER_OUTPUT}"


@dataclass(frozen=True)
class Port:
    """Input or output of a graph: the type of its numbers, and its sides, where ``None`` is a dynamic side.

    >>> Port("float32", (None, 1, 28, 28)).fits((1, 1, 28, 28)), str(Port("int8", (None, 10)))
    (True, 'int8 [?, 10]')
    """

    kind: str
    sides: tuple[int | None, ...]

    def __str__(self) -> str:
        """Return the port as it appears in messages."""
        return f"{self.kind} [{', '.join('?' if side is None else str(side) for side in self.sides)}]"

    def fits(self, shape: tuple[int, ...], kind: str = FP32) -> bool:
        """Return whether the port has this type and shape; a dynamic first side, the batch, fits any size."""
        sides = (shape[0], *self.sides[1:]) if self.sides[:1] == (None,) else self.sides
        return self.kind == kind and sides == shape


@dataclass(frozen=True)
class Probed:
    """Model of a file that also returns the outputs of its layers.

    Attributes:
        model: what :meth:`pmq.runtimes.base.Target.session` loads.
        names: names of the tensors that it returns, that of the output first, then in the order in which they are computed.
        probes: bytes that turn the file's own into this model where they follow them; none if it returns its output alone.
    """

    model: Any
    names: Sequence[str] = (OUTPUT,)
    probes: bytes = b""


@dataclass(frozen=True)
class Session:
    """Loaded model that computes outputs ``(B, C)`` of preprocessed images ``(B, C, H, W)``.

    Attributes:
        runtime: name of the runtime in messages.
        run: function from the first input to all outputs.
        inputs: all inputs of the graph.
        outputs: all outputs of the graph.
    """

    runtime: str
    run: Callable[[Floats], Sequence[Floats]]
    inputs: Sequence[Port]
    outputs: Sequence[Port]

    def __call__(self, images: Floats) -> Floats:
        """Return the first output for images.

        Raises:
            PmqError: the runtime fails.
        """
        return self.all(images)[0]

    def all(self, images: Floats) -> Sequence[Floats]:
        """Return all outputs for images.

        Raises:
            PmqError: the runtime fails.
        """
        try:
            return self.run(images)
        except Exception as error:  # runtimes' errors have no common base class
            raise PmqError(f"{self.runtime} cannot compute the model: {one_line(error) or type(error).__name__}") from None


def named(model: Any) -> str:
    """Return the name of a model for messages: its path, if it is a file."""
    return quoted(model) if isinstance(model, Path) else "the model"
