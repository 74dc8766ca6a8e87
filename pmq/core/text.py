"""Escaping of foreign text, such as names of files and classes, for output on one line."""

from __future__ import annotations


def literal(text: str, encoding: str | None = None) -> str:
    r"""Escape unprintable characters: control characters, line ends, direction marks, and bytes that are not UTF-8.

    What ``encoding`` lacks is escaped as well, so that writing the text cannot fail.

    >>> literal("a\x1b[31m\nb\u202e ü"), literal("ü", "ascii")
    ('a\\x1b[31m\\nb\\u202e ü', '\\xfc')
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    encoding = encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)
