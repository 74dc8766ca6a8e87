"""``python -m pmq.bench.pruning MODEL``: importances at several ratios, in FP32 and int8, before and after recovery.

The latency of a shape does not depend on which channels remain, so each ratio is timed once, with all shapes interleaved.
Results are journaled, so that a second start resumes. To time the shapes, start it with ``--latency`` on an idle machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import Tensor, nn

import pmq
from pmq.bench.subject import benchmark_parser, open_model_and_data
from pmq.core import Allocation
from pmq.core.files import write_csv
from pmq.core.recipe import find_recipe
from pmq.core.rundir import RunDir
from pmq.cost import CostModel
from pmq.data import Data
from pmq.evaluation import evaluate_models
from pmq.optimize import Space, read_space
from pmq.pipeline.deploy.build import in_fp32
from pmq.pipeline.image_split import CALIB_IMAGES, HELD_OUT
from pmq.pipeline.pruned_model import load_pruned
from pmq.pipeline.quantize import RecipeQuantizer
from pmq.pipeline.subject import Subject
from pmq.quant import build_quantized_model, restore
from pmq.reporting.style import BLUE, GREEN, GREY, ORANGE, RED, save
from pmq.runtimes import TARGETS
from pmq.runtimes.layer import deploy_layers
from pmq.runtimes.timing import interleaved, median_spread

RATIOS = (0.05, 0.09375, 0.15, 0.25)
#: structures of PQV-Mobile (2408.08437), which are hidden channels and the width of heads, rounded to even widths
STRUCTURES, ROUND_TO = ("hidden", "width"), 2
CLASSICAL = ("magnitude", "taylor", "hessian", "random")
#: default importance of pmq, which mixes heads before it prunes them
DEFAULT_IMPORTANCE = "reconstruction"


@dataclass
class _Case:
    """A combination of importance and ratio."""

    importance: str
    ratio: float

    @property
    def key(self) -> str:
        return f"{self.importance}/{self.ratio:g}"

    def prune(self, model: nn.Module, images: Tensor, crop_pct: float | None) -> pmq.api.Pruned:
        structures = None if self.importance == DEFAULT_IMPORTANCE else STRUCTURES
        return pmq.prune(
            model, images, self.ratio, importance=self.importance, structures=structures, round_to=ROUND_TO, crop_pct=crop_pct
        )


def main() -> None:
    """Measure what the journal lacks, write the table and draw it."""
    arguments = benchmark_parser(__doc__)
    arguments.add_argument("--target", default="openvino")
    arguments.add_argument("--latency", action="store_true", help="also time the shapes")
    arguments.add_argument("--rounds", type=int, default=60)
    args = arguments.parse_args()
    model, data = open_model_and_data(args)
    images = data.calibration_images(CALIB_IMAGES + HELD_OUT, 0)
    indices = data.evaluation_indices(CALIB_IMAGES + HELD_OUT, 0, args.limit)
    run = RunDir(args.out / "run", {"model": args.model, "target": args.target, "limit": args.limit}, resume=True)
    cases = [_Case(importance, ratio) for ratio in RATIOS for importance in (*CLASSICAL, DEFAULT_IMPORTANCE)]
    for case in cases:
        if run.recall(case.key) is None:
            run.record(case.key, _accuracy(case, model, data, images, indices, args))
            print(case.key, run.recall(case.key), flush=True)
    if args.latency:
        run.record("latency", _latency(model, images, args))
    times = run.recall("latency") or {}
    rows = []
    for case in cases:
        for variant, figures in (run.recall(case.key) or {}).items():
            bits, _, when = variant.partition(" ")
            row = {"importance": case.importance, "ratio": case.ratio, "bits": bits, "recovered": when == "after"}
            rows.append(row | figures | times.get(f"{case.ratio:g} {bits}", {}))
    rows += [{"importance": "none", "ratio": 0.0, "bits": bits} | times.get(f"0 {bits}", {}) for bits in ("fp32", "int8")]
    table = pd.DataFrame(rows)
    write_csv(args.out / "pruning.csv", table)
    print(table.to_string(index=False))
    if times:
        _draw(table, f"{args.model or 'embedded'} on {args.target}, one image, one thread", args)


def _accuracy(case: _Case, model: nn.Module, data: Data, images: Tensor, indices: list[int], args: Any) -> dict[str, Any]:
    """Evaluate the pruned model before and after recovery, in FP32 and with the target's int8 layers."""
    pruned = case.prune(model, images, args.crop_pct)
    subject, modules, facts = Subject.of(model, "cpu", images[:1], args.crop_pct), {}, {}
    for when, allocation in (("before", pruned.cut), ("after", pruned.allocation)):
        modules[f"fp32 {when}"], facts[f"fp32 {when}"] = load_pruned(allocation), _size(allocation)
        modules[f"int8 {when}"], facts[f"int8 {when}"] = _quantized(allocation, images[:CALIB_IMAGES], args)
    evaluations = evaluate_models(subject.model, list(modules.values()), data.evaluation.batches(32, indices), subject.task)
    keys = ("top1", "agreement", "kl", "n_images")
    return {
        variant: facts[variant] | {key: metrics[key] for key in keys}
        for variant, metrics in zip(modules, evaluations, strict=True)
    }


def _size(allocation: Allocation) -> dict[str, float]:
    assert allocation.pruning is not None and allocation.budget is not None
    return {"parameters": float(allocation.pruning.parameters or 0), "size_bytes": allocation.budget.achieved["size_bytes"]}


def _quantized(allocation: Allocation, images: Tensor, args: Any) -> tuple[nn.Module, dict[str, float]]:
    """Quantize every layer to int8 with the plain recipe of post-training quantization with clipped ranges."""
    subject = Subject.of(load_pruned(allocation), "cpu", images[:1], args.crop_pct)
    recipe = find_recipe("mse")
    space = Space(read_space(args.target), subject.inventory, recipe.estimator)
    assignment = space.uniform(8, 8)
    quantized = RecipeQuantizer(subject, images, 0, None).quantize(recipe, assignment)
    size = {
        "parameters": _size(allocation)["parameters"],
        "size_bytes": float(CostModel(subject.inventory).size_bytes(assignment)),
    }
    return build_quantized_model(subject.model, subject.inventory, quantized).model, size


def _latency(model: nn.Module, images: Tensor, args: Any) -> dict[str, Any]:
    """Measure the latency in milliseconds of all shapes in FP32 and int8 and of eager PyTorch, interleaved."""
    target, image = TARGETS[args.target], images[:1]
    torch.set_num_threads(1)
    shapes: dict[float, nn.Module] = {0.0: model}
    for ratio in RATIOS:
        cut = pmq.prune(
            model, images[:16], ratio, importance="magnitude", structures=STRUCTURES, round_to=ROUND_TO, recovery=False
        )
        shapes[ratio] = load_pruned(cut.allocation)
    sessions = {}
    for ratio, module in shapes.items():
        sessions[f"{ratio:g} fp32"] = target.session(in_fp32(target, module, image), 1)
        sessions[f"{ratio:g} int8"] = target.session(_in_int8(target, module, images[:8]), 1)
    calls: dict[str, Any] = {name: (lambda s=s: s(image.numpy())) for name, s in sessions.items()}

    def eager() -> None:
        with torch.inference_mode():
            model(image)

    times = interleaved(calls | {"eager": eager}, args.rounds)
    latencies = {name: median_spread(timings) for name, timings in times.items()}
    eager_ms = latencies["eager"][0]
    return {name: {"latency_ms": ms, "spread": spread, "x_eager": eager_ms / ms} for name, (ms, spread) in latencies.items()}


def _in_int8(target: Any, module: nn.Module, images: Tensor) -> Any:
    subject = Subject.of(module, "cpu", images[:1])
    recipe = find_recipe("minmax")
    assignment = Space(read_space(target.name), subject.inventory, recipe.estimator).uniform(8, 8)
    quantized = RecipeQuantizer(subject, images, 0, None).quantize(recipe, assignment)
    layers = deploy_layers(subject.model, subject.inventory, quantized, restore(subject.model, quantized))
    return target.build(target.skeleton(subject.model, [layer.name for layer in layers], images[:1]), layers)


def _draw(table: pd.DataFrame, title: str, args: Any) -> None:
    """Draw agreement against latency; the area of a point is proportional to its size in bytes."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    largest = float(table["size_bytes"].max())
    for axis, recovered in zip(axes, (False, True), strict=True):
        part = table[(table["recovered"] == recovered)]
        for colour, importance in zip((BLUE, ORANGE, GREEN, GREY, RED), (*CLASSICAL, DEFAULT_IMPORTANCE), strict=True):
            for bits, marker in (("fp32", "o"), ("int8", "s")):
                points = part[(part["importance"] == importance) & (part["bits"] == bits)].sort_values("latency_ms")
                label = importance if bits == "fp32" else None
                axis.plot(points["latency_ms"], points["agreement"], color=colour, lw=1, alpha=0.6)
                area = 120 * points["size_bytes"] / largest
                axis.scatter(points["latency_ms"], points["agreement"], area, color=colour, marker=marker, label=label)
        axis.set_xlabel("measured latency (ms)")
        axis.set_title("after recovery" if recovered else "before recovery")
    axes[0].set_ylabel("agreement with FP32 (%)")
    axes[1].legend(fontsize=7, title="importance; circles FP32, squares int8;\narea is size in bytes", title_fontsize=7)
    figure.suptitle(title)
    save(figure, table, args.out, "pruning")


if __name__ == "__main__":
    main()
