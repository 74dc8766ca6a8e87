"""Storage of batches on disk, for the activations of many images between two stages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor


class Spill:
    """Context manager of a list of tensors in a temporary folder; only one tensor at a time is in memory.

    >>> with Spill() as spill:
    ...     spill.append(torch.ones(2))
    ...     spill[0] = spill[0] + 1
    ...     [x.tolist() for x in spill]
    [[2.0, 2.0]]
    """

    def __init__(self) -> None:
        self._folder: TemporaryDirectory[str] | None = None
        self._count = 0

    def __enter__(self) -> Spill:
        self._folder = TemporaryDirectory(prefix="pmq-")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._folder is not None
        self._folder.cleanup()

    def _path(self, index: int) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / f"{index}.npy"

    def append(self, x: Tensor) -> None:
        """Append a tensor."""
        self[self._count] = x
        self._count += 1

    def clear(self) -> None:
        """Remove all tensors."""
        self._count = 0

    def take(self, other: Spill) -> None:
        """Replace the content by a copy of that of ``other``."""
        self.clear()
        for x in other:
            self.append(x)

    def __setitem__(self, index: int, x: Tensor) -> None:
        np.save(self._path(index), x.cpu().numpy(), allow_pickle=False)

    def _load(self, index: int) -> Tensor:
        return torch.from_numpy(np.load(self._path(index), allow_pickle=False))

    def __getitem__(self, index: int) -> Tensor:
        return self._load(index)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Tensor]:
        return (self._load(index) for index in range(self._count))
