"""Sixteen-bit floating point: what a weight or an activation loses when it is stored or multiplied so."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from pmq.quant.quantizers.base import Unfitted, register


class _Float16(Unfitted):
    """Rounds to a 16-bit format, whose bit patterns are the codes; values beyond its range become its largest."""

    dtype: ClassVar[torch.dtype]

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Of the format."""
        most = torch.finfo(self.dtype).max
        return torch.tensor(-most), torch.tensor(most)

    def codes(self, x: Tensor) -> Tensor:
        """Bit patterns as integers."""
        return self._rounded(x).view(torch.int16).int() & 0xFFFF

    def decode(self, codes: Tensor) -> Tensor:
        """Values of bit patterns."""
        signed = torch.where(codes < 0x8000, codes, codes - 0x10000)
        return signed.to(torch.int16).view(self.dtype).float()

    def __call__(self, x: Tensor) -> Tensor:
        """Round."""
        return self._rounded(x).float()

    def _rounded(self, x: Tensor) -> Tensor:
        most = torch.finfo(self.dtype).max
        return x.clamp(-most, most).to(self.dtype)


@register
class Half(_Float16):
    """IEEE half precision: 11 significant bits.

    >>> Half({}, 16)(torch.tensor([0.1, 1e6]))
    tensor([9.9976e-02, 6.5504e+04])
    """

    name = "half"
    dtype = torch.float16


@register
class BFloat16(_Float16):
    """The range of FP32 with 8 significant bits.

    >>> BFloat16({}, 16)(torch.tensor([0.1]))
    tensor([0.1001])
    """

    name = "bfloat16"
    dtype = torch.bfloat16
