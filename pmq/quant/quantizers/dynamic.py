"""Uniform affine quantization with a separate range for each token, computed at run time."""

from __future__ import annotations

import torch
from torch import Tensor

from pmq.quant.quantizers.affine import Affine
from pmq.quant.quantizers.base import Unfitted, register


@register
class Dynamic(Unfitted):
    """Quantizer :class:`Affine` from the minimum to the maximum along the last axis: one scale per token, no calibration.

    The codes alone do not determine values, so :meth:`decode` is not available. The cost of computing the range is counted
    with the bit operations.

    >>> q = Dynamic({}, bits=2)
    >>> q(torch.tensor([[-1.0, 0.3, 2.0], [0.0, 1.1, 3.0]]))
    tensor([[-1.,  0.,  2.],
            [ 0.,  1.,  3.]])
    """

    name = "dynamic"

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Return infinite ends, as the range is not known in advance."""
        return torch.tensor(-torch.inf), torch.tensor(torch.inf)

    def codes(self, x: Tensor) -> Tensor:
        """Return codes, each on the grid of its token."""
        return self._grid(x).codes(x)

    def decode(self, codes: Tensor) -> Tensor:
        """Raise, as codes cannot be decoded without the tokens."""
        raise NotImplementedError("the scale of a token is not stored")

    def __call__(self, x: Tensor) -> Tensor:
        """Quantize and dequantize each token on its grid."""
        return self._grid(x)(x)

    def _grid(self, x: Tensor) -> Affine:
        low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)  # aminmax takes nine times as long as both
        return Affine.from_range(low, high, self.bits, symmetric=False)
