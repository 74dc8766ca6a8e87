"""Uniform affine quantization with a range of its own for each token, found when the token is there."""

from __future__ import annotations

import torch
from torch import Tensor

from pmq.quant.quantizers.affine import Affine
from pmq.quant.quantizers.base import Unfitted, register


@register
class Dynamic(Unfitted):
    """:class:`Affine` from the smallest to the largest value along the last axis: a scale a token, nothing calibrated.

    Codes alone say nothing, so there is no :meth:`decode`. What finding the ends costs is counted with the bit
    operations.

    >>> q = Dynamic({}, bits=2)
    >>> q(torch.tensor([[-1.0, 0.3, 2.0], [0.0, 1.1, 3.0]]))
    tensor([[-1.,  0.,  2.],
            [ 0.,  1.,  3.]])
    """

    name = "dynamic"

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """None that are known beforehand."""
        return torch.tensor(-torch.inf), torch.tensor(torch.inf)

    def codes(self, x: Tensor) -> Tensor:
        """Codes on each token's own grid."""
        return self._grid(x).codes(x)

    def decode(self, codes: Tensor) -> Tensor:
        """Not without the tokens."""
        raise NotImplementedError("the scale of a token is not kept")

    def __call__(self, x: Tensor) -> Tensor:
        """Quantize and dequantize."""
        return self._grid(x)(x)

    def _grid(self, x: Tensor) -> Affine:
        low, high = torch.aminmax(x, dim=-1, keepdim=True)
        return Affine.from_range(low, high, self.bits, symmetric=False)
