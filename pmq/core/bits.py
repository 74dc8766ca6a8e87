"""Bit-widths as values."""

from __future__ import annotations

from pmq.core.errors import PmqError


class BitWidth(int):
    """A supported bit-width: 2 to 8, 16 for a 16-bit float or an integer activation, or 32 for FP32.

    >>> BitWidth(4).levels, str(BitWidth(4)), str(BitWidth(32))
    (16, '4', 'fp32')
    >>> BitWidth(9)
    Traceback (most recent call last):
    pmq.core.errors.PmqError: bit-width 9 is not one of 2, 3, 4, 5, 6, 7, 8, 16, 32 (FP32)
    """

    ALLOWED = (2, 3, 4, 5, 6, 7, 8, 16, 32)

    def __new__(cls, bits: int) -> BitWidth:
        """Check ``bits``."""
        if bits not in cls.ALLOWED:
            raise PmqError(f"bit-width {bits} is not one of {', '.join(map(str, cls.ALLOWED))} (FP32)")
        return super().__new__(cls, bits)

    @property
    def is_fp32(self) -> bool:
        """Whether nothing is quantized."""
        return self == 32

    @property
    def levels(self) -> int:
        """Most distinct values of a quantizer of this width per scale."""
        return int(1 << int(self))

    def __str__(self) -> str:
        return "fp32" if self.is_fp32 else str(int(self))


FLOAT16 = BitWidth(16)
FP32 = BitWidth(32)
