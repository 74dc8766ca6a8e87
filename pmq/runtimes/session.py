"""A model that is loaded into a runtime: what it takes, what it gives, and computing it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pmq.core.errors import PmqError, one_line
from pmq.core.files import quoted

Floats = NDArray[Any]
#: what :class:`Port` calls the type of images and outputs
FP32 = "float32"
UINT8 = "uint8"
#: bytes of a file, at most: neither ONNX nor FlatBuffers go beyond
MOST = 2**31 - 1
#: what becomes of exceptions of C++ in Python, by way of pybind11
NATIVE = (RuntimeError, ValueError, IndexError, OverflowError, MemoryError)


@dataclass(frozen=True)
class Port:
    """An input or output of a graph: the type of its numbers, and its sides, of which ``None`` are open.

    >>> Port("float32", (None, 1, 28, 28)).fits((1, 1, 28, 28)), str(Port("int8", (None, 10)))
    (True, 'int8 [?, 10]')
    """

    kind: str
    sides: tuple[int | None, ...]

    def __str__(self) -> str:
        """As messages have it."""
        return f"{self.kind} [{', '.join('?' if side is None else str(side) for side in self.sides)}]"

    def fits(self, shape: tuple[int, ...], kind: str = FP32) -> bool:
        """Whether it is numbers of a kind, in a shape; the first side, the batch, may be open."""
        sides = (shape[0], *self.sides[1:]) if self.sides[:1] == (None,) else self.sides
        return self.kind == kind and sides == shape


@dataclass(frozen=True)
class Session:
    """Computes outputs ``(B, C)`` of preprocessed images ``(B, C, H, W)``.

    Attributes:
        runtime: what computes, as messages call it.
        run: hands over the first input, and gives the first output.
        inputs: of the graph, all of them.
        outputs: of the graph, all of them.
    """

    runtime: str
    run: Callable[[Floats], Floats]
    inputs: Sequence[Port]
    outputs: Sequence[Port]

    def __call__(self, images: Floats) -> Floats:
        """Compute.

        Raises:
            PmqError: the runtime fails.
        """
        try:
            return self.run(images)
        except Exception as error:  # runtimes' errors have no base in common
            raise PmqError(f"{self.runtime} cannot compute the model: {one_line(error) or type(error).__name__}") from None


def named(model: Any) -> str:
    """Call a model as messages do: by its file, if it is one."""
    return quoted(model) if isinstance(model, Path) else "the model"
