"""Genomes as text."""

from __future__ import annotations

import re
from pathlib import Path

import pmq
from pmq.core.genomes import DIGITS, to_text


def test_every_choice_has_a_character_of_its_own_also_on_the_page() -> None:
    assert len(set(DIGITS)) == len(DIGITS) == 62
    assert to_text(range(62)) == DIGITS
    script = (Path(pmq.__file__).parent / "reporting" / "page" / "parts" / "allocation.js").read_text()
    assert re.search(r'const DIGITS = "(\w+)"', script).group(1) == DIGITS  # type: ignore[union-attr]
