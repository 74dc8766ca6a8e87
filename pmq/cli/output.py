"""What commands print: tables for people, or one JSON object."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from rich.console import Console
from rich.table import Table


def print_json(data: dict[str, Any]) -> None:
    """Print one JSON object; what is missing is null."""
    print(json.dumps({k: _plain(v) for k, v in data.items()}))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table to standard output."""
    table = Table()
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(number(v) for v in row))
    width = None if sys.stdout.isatty() else 160  # a file or pipe has no width to keep to
    console = Console(width=width)
    console.print(title, highlight=False)  # as a title of the table it would wrap at the table's width
    console.print(table)


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
