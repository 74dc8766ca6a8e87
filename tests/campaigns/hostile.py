"""Values that nobody means to write into a file, and some that somebody did."""

from __future__ import annotations

import math
from random import Random
from typing import Any

#: written into JSON as they stand, some of which is no JSON at all
RAW = (
    *("9" * 5000, "-" + "9" * 5000, "1e999", "-1e999", "1e-999", "NaN", "-Infinity", "1e400000000", "0x10", "1_000"),
    *("tru", "", "'text'", "{", "]", '"', "[" * 3000 + "]" * 3000, "[" * 100_000, '{"a":' * 3000 + "1" + "}" * 3000),
)
#: stands for one of them in a tree that is to be written
RAW_MARK = "@@raw{}@@"
#: ends a key that is to be there twice
TWICE_MARK = "@@twice@@"

NUMBERS: tuple[Any, ...] = (
    *(0, -0.0, 1, -1, 2, 3, 7, 9, 16, 33, 255, 1024, 0.5, -0.5, 1.5, 1e-12, 1e-45, 1e-320, 1e12, 1e38, 1e39, 1e308, -1e308),
    *(2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**40, math.nan, math.inf, -math.inf),
)
TEXTS: tuple[str, ...] = (
    *("", " ", "\n", "\t", "a\nb\nc", "0", "-1", "1e308", "nan", "None", "true", "null", "fp32", "w4a4", "latest", "none"),
    *("[red]", "[/]", "[bold", "{0}", "{x!r}", "%s", "%(x)s", "$x$", r"$\frac{", "^_", "\\", '"', "'", "</script>"),
    *(
        "<!--",
        "&amp;",
        "\x1b[31mred\x1b[0m",
        "\x1b]0;title\x07",
        "\r",
        "\b\b",
        "\u202eback",
        "\ufeff",
        "\x00",
        "\ud800",
        "\udfff",
    ),
    *("e\u0301" * 50, "ﬁ", "٣", "名前", "🎉", "x" * 1000, "x" * 100_000, "a/b", "../../etc", "/dev/zero", "/", ".", "~", "CON"),
    *("-x", "--json", "*", "**", "blocks.*", "[a-", "(", "(a+)+$", "0-5", "5-0", "0-99999999", "1-1-1", "1,,2", "=1+1", ","),
)
#: what a command line can hold: the system ends an argument at NUL, and bytes that are no UTF-8 are low surrogates
ARGUMENTS = tuple(
    text for text in (*TEXTS, "\udcff", "4bit\udcff") if "\x00" not in text and "\ud800" not in text and "\udfff" not in text
)


def value(rng: Random) -> Any:
    """Draw a value of any kind."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice([None, True, False, [], {}, [[]], [{}], {"": None}, [None] * 50, list(range(2000))])
    if kind == 1:
        return RAW_MARK.format(rng.randrange(len(RAW)))
    return rng.choice(NUMBERS) if kind < 4 else rng.choice(TEXTS)
