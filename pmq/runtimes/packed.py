"""Packing of integer weights into digits of 4, 2 and 1 bits, which tables of a graph turn back into 8-bit integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
#: bits of the digits, the lowest first
DIGITS = (4, 2, 1)


@dataclass(frozen=True)
class Digit:
    """One digit of every integer of a weight.

    A graph adds up ``table[packed]`` of all digits. A runtime computes this constant while it loads the file, so that it runs
    its int8 kernels on weights that take any number of bits in the file.

    Attributes:
        bits: bits of the digit.
        packed: ``(ceil(N / n),)`` bytes, each with ``n = 8 / bits`` digits, the first one lowest.
        table: ``(256, n)`` the contributions of the digits of each byte to their integers, int8.
    """

    bits: int
    packed: NDArray[np.uint8]
    table: NDArray[np.int8]


def widths_of_digits(bits: int) -> list[int]:
    """Return the bits of the digits of a ``bits``-bit integer, the lowest first.

    >>> widths_of_digits(3), widths_of_digits(6)
    ([2, 1], [4, 2])
    """
    return [width for width in DIGITS if bits & width]


def split(codes: Array, bits: int) -> list[Digit]:
    """Split integers from ``-2**(bits - 1)`` to ``2**(bits - 1) - 1``, in any shape, into digits; ``bits`` is 2 to 7.

    >>> [digit.packed.tolist() for digit in split(np.array([1, -3, 2, 0]), 3)]
    [[37], [2]]
    """
    unsigned, digits, shift = codes.reshape(-1).astype(np.int64) & (2**bits - 1), list[Digit](), 0
    for width in widths_of_digits(bits):
        places = np.arange(8 // width) * width
        values = (unsigned >> shift) & (2**width - 1)
        values = np.pad(values, (0, -len(values) % len(places))).reshape(-1, len(places))
        digits.append(Digit(width, (values << places).sum(1).astype(np.uint8), _table(width, shift, bits)))
        shift += width
    return digits


def _table(width: int, shift: int, bits: int) -> NDArray[np.int8]:
    """Return the table of the digit at ``shift``; the highest digit subtracts ``2**bits`` from negative integers."""
    digits = (np.arange(256)[:, None] >> (np.arange(8 // width) * width)) & (2**width - 1)
    values = digits << shift
    if shift + width == bits:
        values -= (values >> (bits - 1)) << bits
    return values.astype(np.int8)
