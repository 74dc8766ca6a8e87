"""Tensors beside an allocation, as one safetensors file."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

from pmq.core.errors import PmqError, one_line
from pmq.core.files import quoted, read_bytes


class TensorFile:
    """The bytes of a safetensors file, which messages call ``what``; two files are equal if their bytes are.

    >>> import numpy as np
    >>> file = TensorFile.of({"x": np.ones(2, dtype=np.float32)})
    >>> file.arrays()["x"].tolist(), file == TensorFile(file.data)
    ([1.0, 1.0], True)
    """

    def __init__(self, data: bytes, what: str = "the allocation's file of tensors") -> None:
        self.data, self._what = data, what

    @classmethod
    def read(cls, path: Path) -> TensorFile:
        """Read a file.

        Raises:
            PmqError: it cannot be read.
        """
        return cls(read_bytes(path, "tensors"), f"tensors {quoted(path)}")

    @classmethod
    def of(cls, arrays: dict[str, Any]) -> TensorFile:
        """Build a file from NumPy arrays by name."""
        from safetensors.numpy import save

        return cls(save(dict(sorted(arrays.items()))))

    @cached_property
    def sha256(self) -> str:
        """Hash of the bytes."""
        return hashlib.sha256(self.data).hexdigest()

    def arrays(self) -> dict[str, Any]:
        """NumPy arrays by name.

        Raises:
            PmqError: the bytes are no safetensors file, or one of types that NumPy does not have.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            return dict(load(self.data))
        except SafetensorError as error:
            raise PmqError(f"{self._what} is damaged: {one_line(error)}; put it back, or create it again") from None
        except KeyError as error:
            raise PmqError(f"{self._what} holds values of type {one_line(error)}, which pmq never stores") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorFile) and self.data == other.data

    def __hash__(self) -> int:
        return hash(self.sha256)
