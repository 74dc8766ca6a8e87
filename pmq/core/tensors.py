"""Tensors beside an allocation, as one safetensors file."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

from pmq.core.errors import PmqError


class TensorFile:
    """The bytes of a safetensors file; equal if they are.

    >>> import numpy as np
    >>> file = TensorFile.of({"x": np.ones(2, dtype=np.float32)})
    >>> file.arrays()["x"].tolist(), file == TensorFile(file.data)
    ([1.0, 1.0], True)
    """

    def __init__(self, data: bytes) -> None:
        self.data = data

    @classmethod
    def of(cls, arrays: dict[str, Any]) -> TensorFile:
        """Make one of NumPy arrays by name."""
        from safetensors.numpy import save

        return cls(save(dict(sorted(arrays.items()))))

    @cached_property
    def sha256(self) -> str:
        """Hash of the bytes."""
        return hashlib.sha256(self.data).hexdigest()

    def arrays(self) -> dict[str, Any]:
        """NumPy arrays by name.

        Raises:
            PmqError: the bytes are no safetensors file.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            return dict(load(self.data))
        except SafetensorError as error:
            raise PmqError(f"the allocation's tensors are no safetensors file: {error}") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorFile) and self.data == other.data

    def __hash__(self) -> int:
        return hash(self.sha256)
