"""Strict parsers of JSON, YAML and CSV: no duplicate keys, no numbers out of range, no unbounded nesting."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from pmq.core.errors import PmqError, one_line
from pmq.core.validation import shown

#: levels of brackets, digits of an integer, and things in a YAML file after its aliases are written out, at most
MOST_NESTED, MOST_DIGITS, MOST_NODES = 64, 19, 100_000


def parse_json(text: str, what: str, lenient: bool = False) -> Any:
    """Parse JSON; where it is ``lenient``, lone surrogates (names of files), NaN and infinities may stay.

    Raises:
        PmqError: it is no JSON, a key stands twice in an object, a number is beyond 64 bits or not finite, or it is nested
            too deeply; the message calls it ``what``.
    """
    constant: Callable[[str], float] = float if lenient else _constant
    try:
        data = json.loads(text, parse_int=_integer, parse_float=_finite, parse_constant=constant, object_pairs_hook=_once)
        _check_depth(data)
        if not lenient and "\\u" in text:
            json.dumps(data, ensure_ascii=False).encode()
    except RecursionError:
        raise PmqError(f"{what} is no readable JSON: it is nested too deeply") from None
    except UnicodeEncodeError:
        raise PmqError(f"{what} is no readable JSON: a text in it holds half a character") from None
    except ValueError as error:
        raise PmqError(f"{what} is no readable JSON: {one_line(error)}") from None
    return data


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"{shown(text)} is an integer beyond 64 bits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{shown(text)} is beyond what a float can be")
    return value


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError(f"key {shown(_twice(name for name, _ in pairs))} stands twice in one object")
    return result


def _twice(names: Iterable[Any]) -> Any:
    """Return the most frequent name."""
    return Counter(names).most_common(1)[0][0]


def _check_depth(data: Any) -> None:
    inside, depth = [data], 0
    while inside := [of for of in inside if isinstance(of, dict | list)]:
        depth += 1
        if depth > MOST_NESTED:
            raise RecursionError
        inside = [inner for of in inside for inner in (of.values() if isinstance(of, dict) else of)]


def parse_yaml(text: str, what: str) -> Any:
    """Parse YAML of plain values; aliases may be used, but no file may grow endless by them.

    Raises:
        PmqError: it is no YAML, has tags, a key stands twice in a mapping, or it is nested too deeply or too large; the
            message calls it ``what``.
    """
    import yaml

    try:
        _check_events(yaml.parse(text, yaml.SafeLoader))
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _nodes(loader, node, {}) > MOST_NODES:
            raise ValueError(f"with its aliases written out it holds more than {MOST_NODES} things")
        return loader.construct_document(node)
    except RecursionError:
        raise PmqError(f"{what} is no YAML: it is nested too deeply, or an alias holds itself") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two of dates and numbers that are none
        raise PmqError(f"{what} is no YAML: {one_line(error)}") from None


def _check_events(events: Iterable[Any]) -> None:
    """Refuse tags, which may make any text anything, and deep nesting."""
    from yaml.events import CollectionEndEvent, CollectionStartEvent

    depth = 0
    for event in events:
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MOST_NESTED:
            raise RecursionError
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"tag {shown(event.tag)} is not understood; write the value alone")


def _nodes(loader: Any, node: Any, known: dict[int, int | None]) -> int:
    """Count what is inside a node, its aliases written out; refuse a key that stands twice, of which the later would win."""
    if id(node) in known:
        count = known[id(node)]
        if count is None:
            raise RecursionError
        return count
    known[id(node)] = None
    inside = [] if isinstance(node.value, str) else node.value
    if node.id == "mapping":
        names = [_key(loader, key) for key, _ in inside if key.id == "scalar"]
        if len(set(names)) < len(names):
            line = node.start_mark.line + 1
            raise ValueError(f"key {shown(_twice(names))} stands twice in the mapping that begins in line {line}")
        inside = [part for pair in inside for part in pair]
    known[id(node)] = count = 1 + sum(_nodes(loader, part, known) for part in inside)
    return count


def _key(loader: Any, key: Any) -> Any:
    merges = key.tag == "tag:yaml.org,2002:merge"
    return key.value if merges else loader.construct_object(key)


def parse_csv(text: str, what: str) -> dict[str, list[str]]:
    """Parse the CSV that pmq writes: its cells, column by column, as they stand there.

    Raises:
        PmqError: it has no header, or one that names a column twice, or rows of other lengths, or it ends within a line;
            the message calls it ``what``.
    """
    if text and not text.endswith(("\n", "\r")):
        raise PmqError(f"{what} ends within a line: it was cut off, or is no table")
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise PmqError(f"{what} is no table: {one_line(error)}") from None
    if not rows or not rows[0]:
        raise PmqError(f"{what} is empty: it has no header")
    header = rows[0]
    if len(set(header)) < len(header):
        raise PmqError(f"{what} names a column twice: {shown(header, 200)}")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise PmqError(f"{what} has {len(row)} cells in row {number} and {len(header)} columns: it was damaged")
    return dict(zip(header, map(list, zip(*rows[1:], strict=True)), strict=True)) if rows[1:] else {name: [] for name in header}
