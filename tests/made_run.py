"""A finished run of a small model, made in a fraction of a second: by the program's own writers, of made-up figures."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from pmq.core import Allocation, Component, Inventory, Limits, ModelInfo, Operator
from pmq.core.allocation import CalibrationInfo
from pmq.core.quantizer_parameters import QUANTIZER_PARAMETERS
from pmq.core.recipe import find_recipe
from pmq.core.rundir import RunDir
from pmq.core.tensors import TensorFile
from pmq.cost import CostModel
from pmq.metrics import SensitivityTable
from pmq.optimize import Space, SpaceFile, Tables, non_dominated, within
from pmq.pipeline.allocation import plan_allocation
from pmq.pipeline.search.explore import Archive
from pmq.pipeline.search.result import SearchResult
from pmq.pipeline.search.run_writer import write_run

HEADS, TOKENS, DIM = 2, 5, 8
SPACE = {
    "name": "small",
    "weight": {"bits": [2, 4, 8], "granularity": "channel", "symmetric": True},
    "activation": {"bits": [2, 4, 8]},
    "components": {
        "softmax": {"quantizer": {2: "log", 5: "power"}, "granularity": "head"},
        "gelu": {"quantizer": {2: "codebook", 5: "power"}},
        **{slot: {"granularity": "head"} for slot in "qkv"},
    },
    "pins": {"image": 8},
}
INFO = ModelInfo(name="small.made", num_classes=3, weights_sha256="0" * 64, data_config={"input_size": [1, 8, 8]})


def inventory() -> Inventory:
    """One block of a vision transformer."""
    attention = "blocks.0.attn"
    components = [
        Component("patch_embed.proj", "weight", "patch_embed", 0, (DIM, 1, 4, 4)),
        Component("patch_embed.proj", "input", "image", 0, (1, 8, 8)),
        Component(f"{attention}.qkv", "weight", "qkv", 1, (3 * DIM, DIM)),
        Component(f"{attention}.qkv", "input", "norm", 1, (TOKENS, DIM)),
        *(Component(attention, slot, slot, 1, (TOKENS, DIM), HEADS) for slot in ("q", "k")),
        Component(attention, "softmax", "softmax", 1, (HEADS * TOKENS, TOKENS), HEADS),
        Component(attention, "v", "v", 1, (TOKENS, DIM), HEADS),
        Component("blocks.0.mlp.fc2", "weight", "fc2", 1, (DIM, 4 * DIM)),
        Component("blocks.0.mlp.fc2", "input", "gelu", 1, (TOKENS, 4 * DIM)),
    ]
    operators = [
        Operator("patch_embed.proj", 512, ("patch_embed.proj.weight", "patch_embed.proj.input")),
        Operator(f"{attention}.qkv", 960, (f"{attention}.qkv.weight", f"{attention}.qkv.input")),
        Operator(f"{attention}.q@k", 200, (f"{attention}.q", f"{attention}.k")),
        Operator(f"{attention}.attn@v", 200, (f"{attention}.softmax", f"{attention}.v")),
        Operator("blocks.0.mlp.fc2", 1280, ("blocks.0.mlp.fc2.weight", "blocks.0.mlp.fc2.input")),
    ]
    return Inventory(tuple(components), tuple(operators), rest_bytes=400)


def with_tensors(plan: Allocation) -> Allocation:
    """Give an allocation parameters and tensors, as if it had been carried out."""
    assert plan.inventory is not None
    components, arrays = dict(plan.components), {"norm.bias": np.zeros(DIM, np.float32)}
    for name, choice in plan.components.items():
        info = plan.inventory[name]
        scales = choice.scales(info.shape, info.heads)
        if name.endswith(".weight"):
            arrays[f"{name}.codes"] = np.zeros(-(-math.prod(info.shape) * choice.bits // 8), np.uint8)
            arrays[f"{name}.scale"] = np.full(scales, 0.5, np.float32)
            continue
        needs = QUANTIZER_PARAMETERS[choice.quantizer]
        figures: dict[str, list[float]] = {key: [0.5] * scales for key in needs.per_scale} | {key: [2.0] for key in needs.shared}
        figures |= {key: [float(i) for i in range(2**choice.bits)] for key in needs.levels}
        figures |= {key: [1.0] * len(figures[key]) for key in ("zero_point",) if key in figures}
        components[name] = choice.model_copy(update={"parameters": figures})
    filled = plan.model_copy(update={"components": components, "calibration": CalibrationInfo(sha256="1" * 64, n_images=4)})
    return filled.with_tensors(TensorFile.of(arrays))


def make_run(out: Path, points: int = 40, seed: int = 0, info: ModelInfo = INFO) -> Path:
    """Write a run that looked at so many allocations, a quarter of them simulated."""
    rng, recipe, limits, of = np.random.default_rng(seed), find_recipe("minmax"), Limits(size_bytes=900.0), inventory()
    space = Space(SpaceFile.model_validate(SPACE), of, recipe.estimator)
    table = SensitivityTable("fisher_shrunk")
    for name, choices in space.choices.items():
        for choice in choices:
            table.put(name, choice, float(rng.uniform(0.5, 1) * 4.0**-choice.bits))
    tables = Tables.build(space, table)
    genomes = np.array([[rng.integers(len(decision)) for decision in space.decisions] for _ in range(points)])
    genomes[0], genomes[1] = 0, [len(decision) - 1 for decision in space.decisions]
    costs = tables.evaluate(genomes)
    frame = pd.DataFrame(costs, columns=["predicted_error", *tables.cost_names])
    frame.insert(0, "source", ["uniform w2a2", "uniform w8a8", *["nsga2"] * (points - 2)])
    frame = frame.assign(within=within(limits, costs), front=non_dominated(costs), genome_id=np.arange(points))
    simulated = np.arange(points) < max(points // 4, 3)
    frame["kl"] = np.where(simulated, costs[:, 0] * rng.uniform(0.8, 1.2, points), np.nan)
    frame["agreement"] = np.where(simulated, 90.0, np.nan)
    frame["feature_error"], frame["n_images"], frame["chosen"] = np.nan, np.where(simulated, 8, 0), np.arange(points) == 2
    choices = space.assignment(genomes[2])
    metrics = {"kl": float(frame["kl"][2]), "agreement": 90.0}
    plan = plan_allocation(info, CostModel(of), choices, recipe, space.name, "size=900B", limits, metrics)
    rounds = pd.DataFrame(
        [{"measuring_s": 1.0, "solving_s": 0.5, "simulating_s": 0.5, "simulated": 10, "error": 0.1, "hypervolume": 1.5}]
    )
    ranking = {"all": {"tau": 0.8, "low": 0.5, "high": 1.0, "n": 10}}
    result = SearchResult(with_tensors(plan), frame, table, limits, rounds, ranking, out, {"calibration": 1.0, "total": 2.0})
    settings: dict[str, Any] = {
        "model": info.model_dump(),
        "budget": "size=900B",
        "space": space.file.model_dump(exclude_none=True),
    }
    settings |= {"recipe": recipe.model_dump(), "metric": table.metric, "widths": None, "seed": 0, "versions": {"pmq": "0"}}
    settings |= {"held_out": {"sha256": "2" * 64, "n_images": 8}, "limits": asdict(limits)}
    subject: Any = SimpleNamespace(inventory=of, module=None, model=SimpleNamespace(program=SimpleNamespace(cuts=[])))
    write_run(
        RunDir(out, settings), result, subject, subject, space, Archive(genomes, costs, tables.cost_names), {"line": "pmq search"}
    )
    return out
