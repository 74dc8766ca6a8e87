"""Tables of a run: their columns, the values that are allowed, and reading them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from pmq.core import BitWidth
from pmq.core.choice import Granularity
from pmq.core.errors import PmqError
from pmq.core.files import quoted, read_csv
from pmq.core.genomes import DIGITS
from pmq.core.quantizer_parameters import QUANTIZER_PARAMETERS
from pmq.core.validation import shown


@dataclass(frozen=True)
class Column:
    """Type of a column.

    Attributes:
        read: converts the text of a cell into a value.
        empty: whether a cell may be empty.
        absent: whether a table may lack the column, as in older runs or where it does not apply.
    """

    read: Callable[[str], Any]
    empty: bool = False
    absent: bool = False


def number(text: str) -> float:
    """Parse a finite number."""
    value = float(text)
    if not math.isfinite(value) or "_" in text:
        raise ValueError("it must be a finite number")
    return value


def positive(text: str) -> float:
    """Parse a finite number that is not negative."""
    value = number(text)
    if value < 0:
        raise ValueError("it must not be negative")
    return value


def count(text: str) -> int:
    """Parse a non-negative integer of at most 15 digits."""
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise ValueError("it must be a non-negative integer")
    return int(text)


def flag(text: str) -> bool:
    """Parse ``True`` or ``False``."""
    if text not in ("True", "False"):
        raise ValueError("it must be True or False")
    return text == "True"


def bits(text: str) -> int:
    """Parse a bit-width."""
    return int(BitWidth(count(text)))


def role(text: str) -> str:
    """Parse the role of a component."""
    if text not in ("weight", "activation"):
        raise ValueError("it must be weight or activation")
    return text


def quantizer(text: str) -> str:
    """Parse the name of a quantizer."""
    if text not in QUANTIZER_PARAMETERS:
        raise ValueError(f"it must be one of {', '.join(QUANTIZER_PARAMETERS)}")
    return text


def granularity(text: str) -> str:
    """Parse the granularity of scales."""
    if text not in get_args(Granularity):
        raise ValueError(f"it must be one of {', '.join(get_args(Granularity))}")
    return text


def genome(text: str) -> str:
    """Parse a genome: a digit or letter for each decision."""
    if not re.fullmatch(f"[{DIGITS}]+", text):
        raise ValueError("it must have a digit or letter for each decision")
    return text


_COSTS = {"size_bytes": Column(positive), "bit_ops": Column(positive), "latency_ms": Column(number, absent=True)}
_POINT = {"within": Column(flag), "front": Column(flag), "n_images": Column(count), "chosen": Column(flag, True, True)}
_SIMULATED = {name: Column(number, empty=True) for name in ("kl", "agreement", "feature_error")}
FRONT = {"source": Column(str), "predicted_error": Column(number, empty=True), **_COSTS, **_POINT, **_SIMULATED}
FRONT |= {"genome": Column(genome, empty=True)}  # empty for allocations outside the search space
POINTS = {"predicted_error": Column(number), **_COSTS, **_POINT, "genome": Column(genome)}
ROUNDS = {name: Column(positive) for name in ("measuring_s", "solving_s", "simulating_s")}
ROUNDS |= {"simulated": Column(count), "error": Column(number, empty=True), "hypervolume": Column(number)}
SENSITIVITY = {name: Column(read) for name, read in (("component", str), ("kind", str), ("role", role), ("bits", bits))}
SENSITIVITY |= {"quantizer": Column(quantizer), "granularity": Column(granularity, absent=True)}
SENSITIVITY |= {"group_size": Column(positive, empty=True, absent=True), "error": Column(number), "metric": Column(str)}
COST_BREAKDOWN = {"module": Column(str), **{name: Column(number, absent=cost.absent) for name, cost in _COSTS.items()}}


def read_table(path: Path, kind: str, columns: Mapping[str, Column], least: int = 1) -> pd.DataFrame:
    """Read a table of at least ``least`` rows, without unknown columns; messages call it ``kind`` and its path.

    Raises:
        PmqError: the file cannot be read, lacks a column, has too few rows or an invalid cell.
    """
    cells, label = read_csv(path, kind), f"{kind} {quoted(path)}"
    missing = [name for name, column in columns.items() if name not in cells and not column.absent]
    if missing:
        raise PmqError(f"{label} has no column {missing[0]!r}; restore the file, or search again")
    if len(next(iter(cells.values()))) < least:
        raise PmqError(f"{label} has fewer rows than {least}, so it was truncated; restore the file, or search again")
    return pd.DataFrame({name: _values(label, name, columns[name], cells[name]) for name in cells if name in columns})


def _values(label: str, name: str, column: Column, cells: list[str]) -> pd.Series:
    """Parse the cells of a column.

    Raises:
        PmqError: a cell is invalid.
    """
    values: list[Any] = []
    for row, cell in enumerate(cells, 2):
        if not cell and column.empty:
            values.append(None)
            continue
        try:
            if not cell:
                raise ValueError("it must not be empty")
            values.append(column.read(cell))
        except ValueError as error:
            raise PmqError(f"{label}: {name} in row {row}: {error}; found {shown(cell)}") from None
    if column.read in (number, positive):
        return pd.Series(values, dtype=float)
    return pd.Series(values, dtype=None if column.read in (count, flag, bits) and not column.empty else object)
