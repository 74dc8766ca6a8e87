"""The tables of a run: their columns, what may stand in them, and how they are read."""

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
from pmq.core.quantizers import QUANTIZERS
from pmq.core.validation import shown


@dataclass(frozen=True)
class Column:
    """What cells of a column hold: ``read`` makes a value of their text.

    Attributes:
        empty: whether a cell may be.
        absent: whether a table may lack the column: older ones do, or those it does not concern.
    """

    read: Callable[[str], Any]
    empty: bool = False
    absent: bool = False


def number(text: str) -> float:
    """Read a finite number."""
    value = float(text)
    if not math.isfinite(value) or "_" in text:
        raise ValueError("a number is finite")
    return value


def positive(text: str) -> float:
    """Read a finite number that is not negative."""
    value = number(text)
    if value < 0:
        raise ValueError("it is not negative")
    return value


def count(text: str) -> int:
    """Read a whole number from 0 upwards, below what a table can count."""
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise ValueError("it is a whole number")
    return int(text)


def flag(text: str) -> bool:
    """Read ``True`` or ``False``."""
    if text not in ("True", "False"):
        raise ValueError("it is True or False")
    return text == "True"


def bits(text: str) -> int:
    """Read a bit-width."""
    return int(BitWidth(count(text)))


def role(text: str) -> str:
    """Read what a component is."""
    if text not in ("weight", "activation"):
        raise ValueError("it is weight or activation")
    return text


def quantizer(text: str) -> str:
    """Read the name of a quantizer."""
    if text not in QUANTIZERS:
        raise ValueError(f"it is one of {', '.join(QUANTIZERS)}")
    return text


def granularity(text: str) -> str:
    """Read which values share a scale."""
    if text not in get_args(Granularity):
        raise ValueError(f"it is one of {', '.join(get_args(Granularity))}")
    return text


def genome(text: str) -> str:
    """Read a digit or letter for each decision."""
    if not re.fullmatch("[0-9a-z]+", text):
        raise ValueError("it has a digit or small letter for each decision")
    return text


_COSTS = {"size_bytes": Column(positive), "bit_ops": Column(positive), "latency_ms": Column(number, absent=True)}
_POINT = {"within": Column(flag), "front": Column(flag), "n_images": Column(count), "chosen": Column(flag, True, True)}
_SIMULATED = {name: Column(number, empty=True) for name in ("kl", "agreement", "feature_error")}
FRONT = {"source": Column(str), "predicted_error": Column(number, empty=True), **_COSTS, **_POINT, **_SIMULATED}
FRONT |= {"genome": Column(genome, empty=True)}  # of what the space does not hold
POINTS = {"predicted_error": Column(number), **_COSTS, **_POINT, "genome": Column(genome)}
ROUNDS = {name: Column(positive) for name in ("measuring_s", "solving_s", "simulating_s")}
ROUNDS |= {"simulated": Column(count), "error": Column(number, empty=True), "hypervolume": Column(number)}
SENSITIVITY = {name: Column(read) for name, read in (("component", str), ("kind", str), ("role", role), ("bits", bits))}
SENSITIVITY |= {"quantizer": Column(quantizer), "granularity": Column(granularity, absent=True)}
SENSITIVITY |= {"group_size": Column(positive, empty=True, absent=True), "error": Column(number), "metric": Column(str)}
SPENT = {"module": Column(str), **{name: Column(number, absent=of.absent) for name, of in _COSTS.items()}}


def read_table(path: Path, what: str, columns: Mapping[str, Column], least: int = 1) -> pd.DataFrame:
    """Read a table of at least so many rows; columns that are not known here are left out.

    Raises:
        PmqError: it cannot be read, lacks a column, or a cell holds something else.
    """
    cells, named = read_csv(path, what), f"{what} {quoted(path)}"
    missing = [name for name, column in columns.items() if name not in cells and not column.absent]
    if missing:
        raise PmqError(f"{named} has no column {missing[0]!r}; put the file back, or search anew")
    if len(next(iter(cells.values()))) < least:
        raise PmqError(f"{named} has fewer rows than {least}: it was cut off; put the file back, or search anew")
    return pd.DataFrame({name: _values(named, name, columns[name], cells[name]) for name in cells if name in columns})


def _values(named: str, name: str, column: Column, cells: list[str]) -> pd.Series:
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
            raise PmqError(f"{named}: {name} in row {row}: {error}; found {shown(cell)}") from None
    if column.read in (number, positive):
        return pd.Series(values, dtype=float)
    return pd.Series(values, dtype=None if column.read in (count, flag, bits) and not column.empty else object)
