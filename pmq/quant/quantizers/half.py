"""Sixteen-bit floating point: the rounding of weights and activations that are stored or multiplied in these formats."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from pmq.quant.quantizers.base import Unfitted, register


class _Float16(Unfitted):
    """Quantizer to a 16-bit format, whose bit patterns are the codes; values beyond its range are clamped."""

    dtype: ClassVar[torch.dtype]

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Return the range of the format."""
        largest = torch.finfo(self.dtype).max
        return torch.tensor(-largest), torch.tensor(largest)

    def codes(self, x: Tensor) -> Tensor:
        """Return the bit patterns as integers."""
        return self._rounded(x).view(torch.int16).int() & 0xFFFF

    def decode(self, codes: Tensor) -> Tensor:
        """Return the values of bit patterns."""
        signed = torch.where(codes < 0x8000, codes, codes - 0x10000)
        return signed.to(torch.int16).view(self.dtype).float()

    def __call__(self, x: Tensor) -> Tensor:
        """Round to the format and convert back to FP32."""
        return self._rounded(x).float()

    def _rounded(self, x: Tensor) -> Tensor:
        largest = torch.finfo(self.dtype).max
        return x.clamp(-largest, largest).to(self.dtype)


@register
class Half(_Float16):
    """IEEE half precision, with 11 significant bits.

    >>> Half({}, 16)(torch.tensor([0.1, 1e6]))
    tensor([9.9976e-02, 6.5504e+04])
    """

    name = "half"
    dtype = torch.float16


@register
class BFloat16(_Float16):
    """Bfloat16, which has the range of FP32 with 8 significant bits.

    >>> BFloat16({}, 16)(torch.tensor([0.1]))
    tensor([0.1001])
    """

    name = "bfloat16"
    dtype = torch.bfloat16
