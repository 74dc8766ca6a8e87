"""Integers of any number of bits, as digits of bytes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pmq.runtimes.packed import Digit, split, widths_of_digits


def join(digits: list[Digit], count: int) -> np.ndarray:
    """What a graph computes of digits: the sum of what their tables have for each byte."""
    return np.sum([digit.table[digit.packed].reshape(-1)[:count] for digit in digits], axis=0).astype(np.int8)


@given(st.data(), st.integers(2, 7), st.integers(1, 70))
def test_digits_hold_every_integer(data: st.DataObject, bits: int, count: int) -> None:
    codes = data.draw(arrays(np.int64, count, elements=st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)))
    digits = split(codes, bits)
    assert np.array_equal(join(digits, count), codes)
    assert [digit.bits for digit in digits] == widths_of_digits(bits)
    assert sum(digit.bits for digit in digits) == bits
    stored = sum(digit.packed.size for digit in digits)
    assert stored <= count * bits / 8 + len(digits)  # at most a started byte for each digit
