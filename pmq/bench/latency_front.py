"""Pareto front on a real runtime: ``python -m pmq.bench.latency_front MODEL --data ... --checkpoint ... --out FOLDER``.

Searches for several latencies between all-int8 and FP32, deploys the chosen allocations and each mode used in all layers,
proves each file on the evaluation images, and times all files interleaved. Runs that the folder already contains are reused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from torch import Tensor, nn

import pmq
from pmq.bench.subject import benchmark_parser, open_model_and_data
from pmq.core import Allocation
from pmq.core.recipe import find_recipe
from pmq.core.rundir import CHOSEN
from pmq.cost import LatencyTable
from pmq.models import model_info
from pmq.optimize import Space, read_space
from pmq.pipeline.allocation import make_allocation
from pmq.pipeline.image_split import CALIB_IMAGES, HELD_OUT
from pmq.pipeline.latency_tables import known_latency
from pmq.pipeline.quantize import RecipeQuantizer
from pmq.pipeline.subject import Subject
from pmq.reporting.style import BLUE, GREEN, ORANGE, save
from pmq.runtimes import TARGETS
from pmq.runtimes.timing import interleaved, median_spread

#: positions of the budgets between the latency of the fastest mode (0) and of FP32 (1)
SHARES = (0.1, 0.25, 0.4, 0.6, 0.8)


def main() -> None:
    """Measure and write a CSV and a figure."""
    arguments = benchmark_parser(__doc__)
    arguments.add_argument("--target", default="onnxruntime")
    arguments.add_argument("--rounds", type=int, default=30)
    args = arguments.parse_args()
    model, data = open_model_and_data(args)
    info = model_info(model)
    images = data.calibration_images(CALIB_IMAGES + HELD_OUT, 0)
    indices = data.evaluation_indices(CALIB_IMAGES + HELD_OUT, 0, args.limit)
    evaluation = data.evaluation.first_readable(indices, len(indices))
    table = known_latency(model, args.target, args.out)
    allocations = _uniform(model, images[:CALIB_IMAGES], args.target, table, args.crop_pct)
    uniform_ms = {name: table.latency_ms(a.assignment) for name, a in allocations.items()}
    fastest, slowest = min(uniform_ms.values()), uniform_ms["uniform float"]
    for share in SHARES:
        budget = f"latency={fastest + share * (slowest - fastest):.3f}ms"
        run = args.out / budget
        if not (run / CHOSEN).is_file():
            options = pmq.SearchOptions(latency=table, crop_pct=args.crop_pct)
            run_options = pmq.RunOptions(resume=True)
            pmq.search(model, images, budget, space=args.target, out=run, options=options, run=run_options)
        allocations[budget] = Allocation.load(run / CHOSEN)
    files = _deploy_all(model, allocations, args.target, evaluation, table, args.out, args.crop_pct, args.rounds)
    print(files.to_string(index=False))
    _plot(files, f"{info.name} on {args.target}, one thread, one image", args.out)


def _uniform(
    model: nn.Module, calibration: Tensor, target: str, table: LatencyTable, crop_pct: float | None
) -> dict[str, Allocation]:
    """Quantize the model with each mode in all layers, with the recipe that the search uses."""
    subject = Subject.of(model, "cpu", calibration[:1], crop_pct)
    recipe = find_recipe("best")
    space = Space(read_space(target), subject.inventory, recipe.estimator)
    quantizer = RecipeQuantizer(subject, calibration, 0, None)
    allocations = {}
    for name, genome in space.uniform_modes().items():
        quantized = quantizer.quantize(recipe, space.assignment(genome))
        allocations[f"uniform {name}"] = make_allocation(subject, quantized, None, space.name, f"uniform {name}", latency=table)
    return allocations


def _deploy_all(
    model: nn.Module,
    allocations: dict[str, Allocation],
    target: str,
    images: Tensor,
    table: LatencyTable,
    out: Path,
    crop_pct: float | None,
    rounds: int,
) -> pd.DataFrame:
    """Deploy all allocations, then time their files interleaved."""
    rows: list[dict[str, Any]] = []
    sessions = {}
    for name, allocation in allocations.items():
        folder = out / "deployed" / name.replace(" ", "-")
        done = pmq.deploy(model, allocation, target, images, folder, latency=table, crop_pct=crop_pct, n_passes=rounds)
        failed = [part for part, check in done.proof.items() if not check.passed]
        row: dict[str, Any] = {"allocation": name, "predicted_ms": done.predicted_latency_ms, "size_bytes": done.size_bytes}
        row |= {"promised_bytes": done.promised_bytes, "agreement_fp32": done.agreement_fp32, "kl_fp32": done.kl_fp32}
        row |= {"agreement_simulated": done.agreement_simulated, "agreement_simulation_fp32": done.agreement_simulation_fp32}
        rows.append(row | {"n_images": done.n_images, "failed": ",".join(failed)})
        sessions[name] = TARGETS[target].session(folder / done.file)
    image = images[:1].numpy()
    times = interleaved({name: lambda s=s: s(image) for name, s in sessions.items()}, rounds)  # type: ignore[misc]
    for row in rows:
        row["measured_ms"], row["spread"] = median_spread(times[row["allocation"]])
    return pd.DataFrame(rows)


def _plot(files: pd.DataFrame, title: str, out: Path) -> None:
    figure, axis = plt.subplots(figsize=(7, 4.5))
    uniform = files["allocation"].str.startswith("uniform")
    floor = max(1e-7, 0.5 * float(files["kl_fp32"][files["kl_fp32"] > 1e-9].min()))
    error = np.maximum(files["kl_fp32"].astype(float), floor)
    for part, colour, marker, label in ((uniform, ORANGE, "s", "one mode in all layers"), (~uniform, BLUE, "o", "searched")):
        axis.scatter(files["measured_ms"][part], error[part], color=colour, marker=marker, label=label, zorder=3)
    axis.scatter(files["predicted_ms"], error, color=GREEN, marker="|", label="predicted latency")
    for name, x, y in zip(files["allocation"], files["measured_ms"], error, strict=True):
        axis.annotate(
            name.removeprefix("uniform ").removeprefix("latency="), (x, y), fontsize=7, xytext=(4, 4), textcoords="offset points"
        )
    axis.set_yscale("log")
    axis.set_xlabel("measured latency (ms)")
    axis.set_ylabel("KL to FP32 of the deployed file (nats)")
    axis.set_title(title)
    axis.legend(fontsize=7)
    save(figure, files, out, "latency_front")


if __name__ == "__main__":
    main()
