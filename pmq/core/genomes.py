"""Genomes as text: a character for each decision, which stands for one of its choices."""

from __future__ import annotations

import string
from collections.abc import Iterable

#: characters of choices, in order
DIGITS = string.digits + string.ascii_lowercase + string.ascii_uppercase


def to_text(genome: Iterable[int]) -> str:
    """Return a genome, numbers of choices, as text.

    >>> to_text([0, 10, 61])
    '0aZ'
    """
    return "".join(DIGITS[int(choice)] for choice in genome)
