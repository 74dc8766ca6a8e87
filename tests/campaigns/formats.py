"""Mutations of files by what they are: what only a file of that kind can have wrong, or bytes, or something else in its place."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

from tests.campaigns.blobs import displace, mutate_bytes
from tests.campaigns.hostile import NUMBERS, TEXTS
from tests.campaigns.trees import mutate_tree, short, to_json

#: changes a file in place and says how
Mutator = Callable[[Random, Path], str]

YAML_TEXTS = (
    *("a: &a [x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n", "name: *nobody\n", "name: !!python/object/apply:os.getcwd []\n"),
    *("name: !!binary AAAA\n", "name: 2001-01-01\n", "name: x\nname: y\n", "? [a, b]\n: c\n", "<<: 3\n", "%YAML 9.9\n---\n"),
    *("--- {}\n--- {}\n", "name:\tx\n", "\t- x\n", "name: 'x\n", "weight: {bits: 0o10}\n", "weight: {bits: [1:30]}\n", "&x *x\n"),
    *(
        "weight: &w {components: *w}\n",
        "- " * 2000 + "x\n",
        "name: " + "[" * 2000 + "\n",
        "{" * 500 + "\n",
        "...\n",
        "!!set {a}\n",
    ),
)


def file_of(own: Mutator) -> Mutator:
    """Mutations of a kind of file: mostly its own ones."""

    def mutate(rng: Random, path: Path) -> str:
        how = rng.random()
        others = sorted(p for p in path.parent.rglob("*") if p.is_file() and p != path)
        if how < 0.65:
            return f"{path.name}: {own(rng, path)}"
        if how < 0.9:
            other = rng.choice(others).read_bytes()[:100_000] if others and rng.random() < 0.5 else b""
            data, said = mutate_bytes(rng, path.read_bytes(), other)
            path.write_bytes(data)
            return f"{path.name}: {said}"
        return displace(rng, path, others)

    return mutate


def json_values(rng: Random, path: Path) -> str:
    """A tree with other values in it."""
    tree, said = mutate_tree(rng, json.loads(path.read_text()))
    path.write_text(to_json(tree))
    return said


def yaml_values(rng: Random, path: Path) -> str:
    """The same in YAML, with what is special to it."""
    text = path.read_text()
    if rng.random() < 0.25:
        extra = rng.choice(YAML_TEXTS)
        path.write_text(rng.choice([text + extra, extra + text, extra, _bomb() + text]))
        return f"YAML's own: {short(extra)}"
    tree, said = mutate_tree(rng, yaml.safe_load(text))
    path.write_text(to_json(tree))
    return said


def _bomb(depth: int = 25) -> str:
    """Few lines that stand for very many values."""
    rows = "".join(f"  l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9) if i else 'x'}]\n" for i in range(depth))
    return f"bomb:\n{rows}"


def csv_cells(rng: Random, path: Path) -> str:
    """A table with other cells, columns or rows."""
    rows = list(csv.reader(io.StringIO(path.read_text())))
    i, j = rng.randrange(len(rows)), rng.randrange(len(rows[0]))
    how = rng.choice(["cell", "cell", "cell", "column", "no column", "twice", "name", "row", "rows", "ragged", "header", "order"])
    hostile = str(rng.choice([*NUMBERS, *TEXTS])).encode("utf-8", "replace").decode()
    name = rows[0][j]
    if how == "cell":
        rows[i][j] = hostile
    elif how == "column":
        rows = [rows[0], *([*row[:j], hostile, *row[j + 1 :]] for row in rows[1:])]
    elif how == "no column":
        rows = [row[:j] + row[j + 1 :] for row in rows]
    elif how == "twice":
        rows = [[*row, row[j]] for row in rows]
    elif how == "name":
        rows[0][j] = hostile
    elif how == "row":
        rows.insert(i, rows[i])
    elif how == "rows":
        rows = rows[:i]
    elif how == "ragged":
        rows[i] = rng.choice([rows[i][:j], rows[i] * 2, []])
    elif how == "header":
        rows = rows[1:]
    else:
        rows = [rows[0], *rows[:0:-1]]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_text(text.getvalue())
    return f"{how} {i}, {name!r}, {short(hostile)}"


def json_lines(rng: Random, path: Path) -> str:
    """A journal with other lines."""
    lines = path.read_text().splitlines(keepends=True)
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    how = rng.choice(["value", "value", "value", "removed", "twice", "exchanged", "cut", "tail", "blank", "only"])
    said = f"line {i + 1} {how}"
    if how == "value":
        tree, changed = mutate_tree(rng, json.loads(lines[i]))
        lines[i], said = to_json(tree).replace("\n", "") + "\n", f"{said}: {changed}"
    elif how == "removed":
        del lines[i]
    elif how == "twice":
        lines.insert(j, lines[i])
    elif how == "exchanged":
        lines[i], lines[j] = lines[j], lines[i]
    elif how == "cut":
        lines[i] = lines[i][: rng.randrange(len(lines[i]))] + rng.choice(["", "\n"])
    elif how == "tail":
        lines = [*lines[:i], lines[i][: rng.randrange(len(lines[i]))]]
    elif how == "blank":
        lines.insert(i, rng.choice(["\n", "\r\n", " \n", "null\n", "[]\n", "{}\n", "\x00\n"]))
    else:
        lines = [lines[i]]
    path.write_text("".join(lines))
    return said


def safetensors_header(rng: Random, path: Path) -> str:
    """Tensors whose description tells otherwise."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header, said = mutate_tree(rng, json.loads(data[8:end]))
    text = to_json(header).encode("utf-8", "surrogatepass")
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    return f"header: {said}"


def tensors(rng: Random, named: dict[str, Any]) -> str:
    """Other tensors than there should be: ``named`` ones of NumPy, changed in place."""
    import numpy as np

    name = rng.choice(list(named))
    array = np.array(named[name])
    how = rng.choice(
        ["missing", "extra", "renamed", "shape", "flat", "type", "nan", "inf", "huge", "zeros", "negative", "empty", "cut"]
    )
    if how == "missing":
        del named[name]
    elif how == "extra":
        named[rng.choice(["unknown.weight", "", "a/b/c", "rest/0", f"{name}/codes"])] = array
    elif how == "renamed":
        named[name.swapcase()] = named.pop(name)
    elif how == "shape":
        named[name] = array[None]
    elif how == "flat":
        named[name] = array.reshape(-1)
    elif how == "cut":
        named[name] = array[..., : max(array.shape[-1] // 2, 1)].copy() if array.ndim else array
    elif how == "type":
        kind = rng.choice(["float16", "float64", "int8", "uint8", "int64", "bool", "int16", "uint32"])
        with np.errstate(all="ignore"):
            named[name] = array.astype(kind)
        how = f"type {kind}"
    elif how == "empty":
        named[name] = array[..., :0].copy() if array.ndim else np.zeros(0, array.dtype)
    else:
        filled = {"nan": np.nan, "inf": np.inf, "huge": 1e30, "zeros": 0, "negative": -1}[how]
        with np.errstate(all="ignore"):
            changed = array.reshape(-1).copy()
            changed[: rng.choice([1, changed.size])] = np.array(filled).astype(array.dtype)
        named[name] = changed.reshape(array.shape)
    return f"tensor {name!r}: {how}"
