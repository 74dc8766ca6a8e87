"""``python -m pmq.bench.model_size NAME[@PIXELS]... --out FILE.csv``: time and memory of searches in models of several sizes.

Each model is created with random weights, perturbed norms and noise as images, and searched by one thread in its own process.
A row of the table has the seconds of each step and the most memory held in it. With ``--law FILE.csv`` nothing is searched: a
law is fitted to all rows of the table but those of ``--predict NAME[@PIXELS]``, and compared with them.

The law of a step is ``c * parameters ** a * tokens ** b``, fitted to the logarithms by least squares; so is that of memory.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from pmq.api import sensitivity
from pmq.bench.isolated import tables
from pmq.bench.transforms import perturb
from pmq.cli.output import print_table
from pmq.core.component import Inventory
from pmq.core.memory_limit import step_peak_bytes
from pmq.evaluation import executor_of
from pmq.models import create_model, model_info
from pmq.models.float_products import tune_process
from pmq.pipeline.search.clock import Clock
from pmq.pipeline.search.options import DataSplit, RunOptions, SearchOptions
from pmq.pipeline.search.plan import plan_search
from pmq.pipeline.search.steps import calibrate, choose, explore_space
from pmq.pipeline.subject import Subject

TERMS = ("parameters", "tokens")
STEPS = ("calibration", "sensitivity", "simulation", "front", "finish", "total")


class Meter(Clock):
    """Stopwatch that records the most memory held in each step too, in gigabytes."""

    def __init__(self) -> None:
        super().__init__()
        self.peaks: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Record the time and the memory since the last call under ``name``."""
        super().lap(name)
        self.peaks[name] = step_peak_bytes() / 1e9


def subject_of(name: str, count: int) -> tuple[nn.Module, Tensor]:
    """Return a model with random weights, named ``NAME`` or ``NAME@PIXELS``, and ``count`` images of noise."""
    name, _, pixels = name.partition("@")
    model = perturb(create_model(name, pretrained=False, options={"img_size": int(pixels)} if pixels else None))
    size = model_info(model).data_config["input_size"]
    return model, torch.randn(count, *size, generator=torch.Generator().manual_seed(0))


def terms_of(inventory: Inventory) -> dict[str, float]:
    """Return what the law is made of: millions of parameters, and tokens; and millions of multiply-accumulates for one image."""
    weights = sum(c.numel for c in inventory if c.role == "weight")
    return {
        "parameters": (weights + inventory.rest_bytes / 4) / 1e6,
        "tokens": float(np.median([c.shape[0] for c in inventory if c.slot == "input" and c.kind != "image"])),
        "macs": sum(op.macs for op in inventory.operators) / 1e6,
    }


def searched(name: str, split: DataSplit) -> dict[str, Any]:
    """Search four bits, and return the row of a model."""
    model, images = subject_of(name, split.n_calibration + split.n_held_out)
    step_peak_bytes()
    meter = Meter()
    with executor_of(None) as executor:
        plan = plan_search(model, images, "4bit", "default", None, SearchOptions(), split, RunOptions())
        prepared = calibrate(plan)
        meter.lap("calibration")
        explored = explore_space(plan, prepared, executor, meter)
        choose(plan, prepared, explored, executor)
        meter.lap("finish")
    seconds = meter.done(explored.rounds.history)
    row = {"model": name} | terms_of(plan.subject.inventory) | {f"{step}_s": seconds[step] for step in STEPS}
    return row | {f"{step}_gb": peak for step, peak in meter.peaks.items()}


def measured(name: str, n_calibration: int) -> dict[str, Any]:
    """Measure a search's sensitivity table, and return the row of a model."""
    model, images = subject_of(name, 2 * n_calibration)
    inventory = Subject.of(model, "cpu", images[:1]).inventory
    step_peak_bytes()
    start = time.perf_counter()
    table = sensitivity(model, images, ("fisher_shrunk",), recipe="best", n_calibration=n_calibration)
    row = {"model": name} | terms_of(inventory) | {"table_rows": len(table)}
    return row | {"table_s": time.perf_counter() - start, "table_gb": step_peak_bytes() / 1e9}


def law(known: pd.DataFrame, column: str, models: pd.DataFrame) -> Any:
    """Return a column ``(N,)`` for ``models``, by a law fitted to the models that are ``known``."""

    def terms(table: pd.DataFrame) -> Any:
        return np.column_stack([np.ones(len(table)), np.log(table[list(TERMS)].to_numpy(float))])

    exponents = np.linalg.lstsq(terms(known), np.log(known[column].to_numpy(float)), rcond=None)[0]
    return np.exp(terms(models) @ exponents)


def print_laws(table: pd.DataFrame, predicted: Iterable[str]) -> None:
    """Print the seconds of each step, the memory, and what the law of the other models says of them."""
    asked = table["model"].isin(list(predicted))
    rows = list[list[Any]]()
    table = table.assign(peak_gb=table.filter(like="_gb").max(axis=1))
    known = table[~asked]
    for column in [name for name in (*(f"{step}_s" for step in STEPS), "table_s", "peak_gb") if name in table]:
        laws = law(known, column, table)
        for name, measured_value, by_law, new in zip(table["model"], table[column], laws, asked, strict=True):
            off = f"{by_law / measured_value - 1:+.0%}"
            rows.append([column, name, "predicted" if new else "fitted", measured_value, by_law, off])
    print_table("measured and by the law", ["", "model", "", "measured", "law", "law"], rows)


def main() -> None:
    """Measure or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--table", action="store_true", help="measure the sensitivity table alone")
    parser.add_argument("--calib-images", type=int, default=32)
    parser.add_argument("--held-out", type=int, default=256)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--law", type=Path)
    parser.add_argument("--predict", nargs="*", default=())
    args = parser.parse_args()
    if args.law is not None:
        print_laws(pd.read_csv(args.law), args.predict)
        return
    flags = [*(["--table"] if args.table else []), "--calib-images", str(args.calib_images), "--held-out", str(args.held_out)]
    if args.one is None:
        for table in tables("pmq.bench.model_size", args.models, "models", args.out, flags=flags):
            print(table.tail(1).to_string())
        return
    tune_process()
    torch.set_num_threads(1)
    if args.table:
        print(json.dumps(measured(args.one, args.calib_images)))
    else:
        print(json.dumps(searched(args.one, DataSplit(args.calib_images, args.held_out))))


if __name__ == "__main__":
    main()
