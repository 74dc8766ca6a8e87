"""What commands print: lines and tables for people, or one JSON object. All of it literally, and none of it stops the work."""

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

#: what standard output failed with, once it did: nothing more is written to it then
_failed: list[OSError] = []


def open_output() -> None:
    """Make standard output and error such that no character is too foreign for them, and that they can be written to."""
    _failed.clear()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who started us
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def close_output() -> OSError | None:
    """Write what is left, and give what standard output failed with, if it did."""
    _write("")
    return _failed[0] if _failed else None


def give_up_output(error: OSError) -> None:
    """Write nothing more to standard output, and let :func:`close_output` tell of ``error``."""
    _failed.append(error)


def say(*lines: str) -> None:
    """Print lines to standard output, each literally and on one line whatever it holds."""
    _write("".join(f"{_literal(line)}\n" for line in lines))


def print_json(data: dict[str, Any]) -> None:
    """Print one JSON object; what is missing, or no number, is null."""
    _write(json.dumps(_plain(data), allow_nan=False) + "\n")


def print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table to standard output; a cell that is a tuple has several lines."""
    table = Table()
    for i, column in enumerate(columns):
        table.add_column(Text(_literal(column)), justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text("\n".join(_literal(number(v)) for v in (c if isinstance(c, tuple) else (c,)))) for c in row))
    drawn = _Draft()
    width = None if drawn.isatty() else 160  # a file or pipe has no width to keep to
    Console(file=drawn, width=width).print(table)
    say(title)  # as a title of the table it would wrap at the table's width
    _write(drawn.getvalue())


class _Draft(io.StringIO):
    """What is drawn for standard output, before it is written there."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(sys.stdout, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return sys.stdout.isatty()


def number(value: Any) -> str:
    """Write a figure with three or four significant digits."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}" if 1 <= abs(value) < 1e5 else f"{value:.3g}"
    return str(value)


def costs(size_bytes: float, bit_ops: float) -> list[str]:
    """Write bytes in decimal megabytes and bit operations in billions."""
    return [f"{size_bytes / 1e6:.3f}", f"{bit_ops / 1e9:.3f}"]


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy's and torch's
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _literal(text: str) -> str:
    return literal(text, getattr(sys.stdout, "encoding", None))


def _write(text: str) -> None:
    """Write to standard output, or remember why not: a full disk or a closed pipe loses what is printed, not what was found."""
    if _failed:
        return
    try:
        if text:  # even nothing is too much for a full device
            sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        give_up_output(error)
        with suppress(OSError):  # what is in the buffer would be tried once more at exit, and fail with a traceback
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
