"""Allocations that follow the schema and are wrong: what no parser finds."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests.campaigns.formats import safetensors_header, tensors
from tests.campaigns.trees import short, to_json

Tree = dict[str, Any]


def wrong_values(rng: Random, path: Path) -> str:
    """Change an allocation so that it still follows its schema."""
    tree = json.loads(path.read_text())
    change = rng.choice(CHANGES)
    said = f"{path.name}: {change.__name__.strip('_')}: {change(rng, tree)}"
    path.write_text(to_json(tree))
    return said


def wrong_tensors(rng: Random, path: Path) -> str:
    """Change the tensors beside an allocation, and the hash in it, so that they seem to belong together."""
    from safetensors.numpy import load, save

    beside = path.with_suffix(".safetensors")
    if rng.random() < 0.7:
        named = load(beside.read_bytes())
        said = tensors(rng, named)
        beside.write_bytes(save(named))
    else:
        said = safetensors_header(rng, beside)
    tree = json.loads(path.read_text())
    tree["tensors_sha256"] = hashlib.sha256(beside.read_bytes()).hexdigest()
    path.write_text(json.dumps(tree))
    return f"{beside.name}: {said}"


def _component(rng: Random, tree: Tree) -> tuple[str, Tree]:
    name = rng.choice(list(tree["components"]))
    return name, tree["components"][name]


def _bits(rng: Random, tree: Tree) -> str:
    name, choice = _component(rng, tree)
    choice["bits"] = rng.choice([b for b in (2, 3, 4, 5, 6, 8) if b != choice["bits"]])
    return f"{name} {choice['bits']}"


def _quantizer(rng: Random, tree: Tree) -> str:
    name, choice = _component(rng, tree)
    choice["quantizer"] = rng.choice(["affine", "log", "power", "codebook", "magic", ""])
    return f"{name} {choice['quantizer']}"


def _layout(rng: Random, tree: Tree) -> str:
    name, choice = _component(rng, tree)
    choice["granularity"] = rng.choice(["tensor", "channel", "group", "head"])
    choice["group_size"] = rng.choice([1, 7, 32, 10**9]) if choice["granularity"] == "group" else None
    choice["symmetric"] = rng.random() < 0.5
    return f"{name} {choice['granularity']} {choice['group_size']}"


def _float(rng: Random, tree: Tree) -> str:
    name, choice = _component(rng, tree)
    bits, quantizer = rng.choice([(32, "none"), (16, "half"), (16, "bfloat16")])
    choice |= {"bits": bits, "quantizer": quantizer}
    return f"{name} {quantizer}"


def _parameter(rng: Random, tree: Tree) -> str:
    named = [(n, c["parameters"]) for n, c in tree["components"].items() if c["parameters"]]
    if not named:
        return "none"
    name, parameters = rng.choice(named)
    key = rng.choice(list(parameters))
    values = parameters[key]
    changes: list[Any] = [[-v for v in values], [0.0] * len(values), [1e30] * len(values), [1e-40] * len(values), [], values * 2]
    changes += [values[:-1], [v * 3 for v in values], [v + 0.37 for v in values], [math.nan] * len(values), [math.inf]]
    parameters[key] = rng.choice(changes)
    return f"{name} {key} {short(parameters[key])}"


def _parameters(rng: Random, tree: Tree) -> str:
    name, choice = _component(rng, tree)
    others = [None, {}, {"scale": [1.0]}, {"unknown": [1.0]}, {"scale": [1.0], "zero_point": [0.0], "root": [2.0]}]
    choice["parameters"] = rng.choice(others)
    return f"{name} {choice['parameters']}"


def _without(rng: Random, tree: Tree) -> str:
    name, _ = _component(rng, tree)
    del tree["components"][name]
    return name


def _exchanged(rng: Random, tree: Tree) -> str:
    (a, first), (b, second) = _component(rng, tree), _component(rng, tree)
    tree["components"] |= {a: second, b: first}
    return f"{a}, {b}"


def _renamed(rng: Random, tree: Tree) -> str:
    name, choice = _component(rng, tree)
    del tree["components"][name]
    new = rng.choice(["", "blocks.99.mlp.fc1.weight", name.upper(), f"{name}.", "head", "blocks.0.mlp.fc1"])
    tree["components"][new] = choice
    return f"{name} {new!r}"


def _model(rng: Random, tree: Tree) -> str:
    key, new = rng.choice(
        [
            ("name", "deit_tiny_patch16_224"),
            ("name", ""),
            ("name", "vit_fashion_mnist.other"),
            ("num_classes", 0),
            ("num_classes", -3),
            ("num_classes", 11),
            ("num_classes", 10**9),
            ("weights_sha256", "0" * 64),
            ("weights_sha256", ""),
        ]
    )
    tree["model"][key] = new
    return f"{key} {new!r}"


def _preprocessing(rng: Random, tree: Tree) -> str:
    sizes = [[1, 28], [3, 28, 28], [1, 0, 0], [1, -28, -28], [1, 10**6, 10**6], "1", None, [1, 56, 56]]
    key, new = rng.choice(
        [("input_size", size) for size in sizes]
        + [("crop_pct", c) for c in (0, -1, 1e308, 1e-9, "1", None, 0.5, 3)]
        + [("std", s) for s in ([0], [], [0.3, 0.3], None, ["x"])]
        + [("mean", [math.nan]), ("interpolation", "magic"), ("interpolation", 3), ("crop_mode", "magic"), ("unknown", 1)]
    )
    tree["model"]["data_config"][key] = new
    return f"{key} {new!r}"


def _calibration(rng: Random, tree: Tree) -> str:
    key, new = rng.choice(
        [
            ("n_images", 0),
            ("n_images", -5),
            ("n_images", 10**9),
            ("n_held_out", -1000),
            ("seed", -1),
            ("seed", 2**70),
            ("sha256", ""),
        ]
    )
    if tree["calibration"] is None:
        return "none"
    tree["calibration"][key] = new
    return f"{key} {new}"


def _recipe(rng: Random, tree: Tree) -> str:
    key, new = rng.choice(
        [
            ("name", "magic"),
            ("name", ""),
            ("transforms", []),
            ("transforms", ["magic"]),
            ("estimator", "magic"),
            ("ridge", -1.0),
            ("reconstruct", -5),
            ("sequential", True),
            ("compensate", False),
            ("gradients", False),
        ]
    )
    tree["recipe"][key] = new
    return f"{key} {new}"


def _figures(rng: Random, tree: Tree) -> str:
    where = (
        rng.choice([tree["metrics"], tree["budget"]["achieved"], tree["budget"]["limits"]]) if tree["budget"] else tree["metrics"]
    )
    key = rng.choice([*where, "unknown"])
    where[key] = rng.choice([-1.0, 1e308, 0, 200.0, None, math.nan])
    return f"{key} {where[key]}"


def _hash(rng: Random, tree: Tree) -> str:
    tree["tensors_sha256"] = rng.choice([None, "", "0" * 64, tree["tensors_sha256"].upper() if tree["tensors_sha256"] else "x"])
    return f"{tree['tensors_sha256']}"


def _pruning(rng: Random, tree: Tree) -> str:
    if tree["pruning"] is None:
        unit = {"kind": "hidden", "size": 384, "heads": 1, "kept": rng.choice(["0-191", "0", "0-383"])}
        tree["pruning"] = {"importance": "x", "recovered": False, "units": {"blocks.0.mlp": unit}}
        return f"added, {unit['kept']}"
    name = rng.choice(list(tree["pruning"]["units"]))
    unit = tree["pruning"]["units"][name]
    how = rng.choice(["gone", "kept", "size", "kind", "heads", "name", "hash"])
    if how == "gone":
        del tree["pruning"]["units"][name]
    elif how == "name":
        tree["pruning"]["units"]["blocks.77.mlp"] = unit
    elif how == "hash":
        tree["pruning"]["weights_sha256"] = "0" * 64
    else:
        unit[how] = {
            "kept": rng.choice(["0", "0-7", "0-99999999999", "3-1", "0-0,0-0", ",".join(map(str, range(0, unit["size"], 2)))]),
            "size": rng.choice([1, unit["size"] * 2, 10**12]),
            "kind": rng.choice(["hidden", "attention", "embedding"]),
            "heads": rng.choice([1, 2, 3, 10**9]),
        }[how]
    return f"{name} {how} {unit.get(how)}"


CHANGES: tuple[Callable[[Random, Tree], str], ...] = (
    *(_bits, _quantizer, _layout, _float, _parameter, _parameter, _parameters, _without, _exchanged, _renamed, _model),
    *(_preprocessing, _calibration, _recipe, _figures, _hash, _pruning, _pruning),
)
