"""Powers and roots by repeated squaring and square roots, the only ones that are fast on every processor."""

from __future__ import annotations

from torch import Tensor

#: supported exponents of powers and roots
ROOTS = (1, 2, 4)


def to_power_(x: Tensor, power: int) -> Tensor:
    """Raise ``x`` to a power in ``ROOTS``, in place."""
    while power > 1:
        x.mul_(x)
        power //= 2
    return x


def root_(x: Tensor, root: int) -> Tensor:
    """Replace ``x`` by its root, whose degree is in ``ROOTS``, in place."""
    while root > 1:
        x.sqrt_()
        root //= 2
    return x
