"""Output of commands: lines and tables for people, or one JSON object.

Text is printed literally, and an output that cannot be written never stops the work.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pmq.core.text import literal

#: the error with which standard output failed, after which nothing more is written to it
_failed: list[OSError] = []


def open_output() -> None:
    """Prepare standard output and standard error to accept any character and to be writable."""
    _failed.clear()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the parent process
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def close_output() -> OSError | None:
    """Flush standard output and return the error with which it failed, or None."""
    _write("")
    return _failed[0] if _failed else None


def give_up_output(error: OSError) -> None:
    """Write nothing more to standard output, and let :func:`close_output` return ``error``."""
    _failed.append(error)


def say(*lines: str) -> None:
    """Print lines to standard output, each literally and on one line whatever characters it contains."""
    _write("".join(f"{_literal(line)}\n" for line in lines))


def print_json(data: dict[str, Any]) -> None:
    """Print one JSON object; missing values, NaN and infinities become null."""
    _write(json.dumps(_plain(data), allow_nan=False) + "\n")


def print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table to standard output; a cell that is a tuple has several lines."""
    table = Table()
    for i, column in enumerate(columns):
        table.add_column(Text(_literal(column)), justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text("\n".join(_literal(number(v)) for v in (c if isinstance(c, tuple) else (c,)))) for c in row))
    drawn = _Draft()
    width = None if drawn.isatty() else 160  # a file or pipe has no width limit
    Console(file=drawn, width=width).print(table)
    say(title)  # as the table's own title it would wrap at the table's width
    _write(drawn.getvalue())


class _Draft(io.StringIO):
    """Buffer for a drawing that is later written to standard output, whose encoding it has."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(sys.stdout, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return sys.stdout.isatty()


def number(value: Any) -> str:
    """Format a number with three or four significant digits."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}" if 1 <= abs(value) < 1e5 else f"{value:.3g}"
    return str(value)


def costs(size_bytes: float, bit_ops: float) -> list[str]:
    """Format bytes as decimal megabytes and bit operations as billions."""
    return [f"{size_bytes / 1e6:.3f}", f"{bit_ops / 1e9:.3f}"]


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy arrays and torch tensors
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _literal(text: str) -> str:
    return literal(text, getattr(sys.stdout, "encoding", None))


def _write(text: str) -> None:
    """Write to standard output, or record the error: a full disk or closed pipe loses the output, not the results."""
    if _failed:
        return
    try:
        if text:  # a full device rejects even an empty write
            sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        give_up_output(error)
        with suppress(OSError):  # the buffer would be written again at exit and fail with a traceback
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
