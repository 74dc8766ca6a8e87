"""``python -m pmq.bench.pruning MODEL``: importances at several ratios, in FP32 and int8, before and after recovery.

The latency of a shape does not depend on which channels are kept, so each ratio is timed once, all shapes in turns. What is
done is journaled: start again to go on, on a quiet machine with ``--latency`` to time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import Tensor, nn

import pmq
from pmq.bench.subject import opened, parser
from pmq.core import Allocation
from pmq.core.files import write_csv
from pmq.core.recipe import find_recipe
from pmq.core.rundir import RunDir
from pmq.cost import CostModel
from pmq.data import Data
from pmq.evaluation import evaluate_models
from pmq.optimize import Space, read_space
from pmq.pipeline.deploy.build import in_fp32
from pmq.pipeline.pruned_model import load_pruned
from pmq.pipeline.quantize import Fresh
from pmq.pipeline.subject import CALIB_IMAGES, HELD_OUT, Subject
from pmq.quant import build_quantized_model, restore
from pmq.reporting.style import BLUE, GREEN, GREY, ORANGE, RED, save
from pmq.runtimes import TARGETS
from pmq.runtimes.layer import deploy_layers
from pmq.runtimes.timing import interleaved, median_spread

RATIOS = (0.05, 0.09375, 0.15, 0.25)
#: as PQV-Mobile prunes (2408.08437): hidden channels and the width of heads, to even widths
STRUCTURES, ROUND_TO = ("hidden", "width"), 2
CLASSICAL = ("magnitude", "taylor", "hessian", "random")
#: our default, which mixes heads before it prunes them
OWN = "reconstruction"


@dataclass
class _Case:
    importance: str
    ratio: float

    @property
    def key(self) -> str:
        return f"{self.importance}/{self.ratio:g}"

    def prune(self, model: nn.Module, images: Tensor, crop_pct: float | None) -> pmq.api.Pruned:
        structures = None if self.importance == OWN else STRUCTURES
        return pmq.prune(
            model, images, self.ratio, importance=self.importance, structures=structures, round_to=ROUND_TO, crop_pct=crop_pct
        )


def main() -> None:
    """Fill the table; draw it."""
    arguments = parser(__doc__)
    arguments.add_argument("--target", default="openvino")
    arguments.add_argument("--latency", action="store_true", help="time the shapes as well")
    arguments.add_argument("--rounds", type=int, default=60)
    args = arguments.parse_args()
    model, data = opened(args)
    images = data.calibration_images(CALIB_IMAGES + HELD_OUT, 0)
    indices = data.evaluation_indices(CALIB_IMAGES + HELD_OUT, 0, args.limit)
    run = RunDir(args.out / "run", {"model": args.model, "target": args.target, "limit": args.limit}, resume=True)
    cases = [_Case(importance, ratio) for ratio in RATIOS for importance in (*CLASSICAL, OWN)]
    for case in cases:
        if run.recall(case.key) is None:
            run.record(case.key, _accuracy(case, model, data, images, indices, args))
            print(case.key, run.recall(case.key), flush=True)
    if args.latency:
        run.record("latency", _latency(model, images, args))
    times = run.recall("latency") or {}
    rows = []
    for case in cases:
        for what, figures in (run.recall(case.key) or {}).items():
            bits, _, when = what.partition(" ")
            found = times.get(f"{case.ratio:g} {bits}", {})
            rows.append(
                {"importance": case.importance, "ratio": case.ratio, "bits": bits, "recovered": when == "after"} | figures | found
            )
    rows += [{"importance": "none", "ratio": 0.0, "bits": bits} | times.get(f"0 {bits}", {}) for bits in ("fp32", "int8")]
    table = pd.DataFrame(rows)
    write_csv(args.out / "pruning.csv", table)
    print(table.to_string(index=False))
    if times:
        _draw(table, f"{args.model or 'embedded'} on {args.target}, one image, one thread", args)


def _accuracy(case: _Case, model: nn.Module, data: Data, images: Tensor, indices: list[int], args: Any) -> dict[str, Any]:
    """Figures of the pruned model before and after recovery, in FP32 and with the target's int8 layers."""
    found = case.prune(model, images, args.crop_pct)
    subject, modules, facts = Subject.of(model, "cpu", images[:1], args.crop_pct), {}, {}
    for when, allocation in (("before", found.cut), ("after", found.allocation)):
        modules[f"fp32 {when}"], facts[f"fp32 {when}"] = load_pruned(allocation), _size(allocation)
        modules[f"int8 {when}"], facts[f"int8 {when}"] = _quantized(allocation, images[:CALIB_IMAGES], args)
    judged = evaluate_models(subject.model, list(modules.values()), data.evaluation.batches(32, indices), subject.task)
    keys = ("top1", "agreement", "kl", "n_images")
    return {what: facts[what] | {key: of[key] for key in keys} for what, of in zip(modules, judged, strict=True)}


def _size(allocation: Allocation) -> dict[str, float]:
    assert allocation.pruning is not None and allocation.budget is not None
    return {"parameters": float(allocation.pruning.parameters or 0), "size_bytes": allocation.budget.achieved["size_bytes"]}


def _quantized(allocation: Allocation, images: Tensor, args: Any) -> tuple[nn.Module, dict[str, float]]:
    """Every layer int8, by the plain recipe of post-training quantization with clipped ranges."""
    subject = Subject.of(load_pruned(allocation), "cpu", images[:1], args.crop_pct)
    recipe = find_recipe("mse")
    space = Space(read_space(args.target), subject.inventory, recipe.estimator)
    assignment = space.uniform(8, 8)
    quantized = Fresh(subject, images, 0, None).quantize(recipe, assignment)
    size = {
        "parameters": _size(allocation)["parameters"],
        "size_bytes": float(CostModel(subject.inventory).size_bytes(assignment)),
    }
    return build_quantized_model(subject.model, subject.inventory, quantized).model, size


def _latency(model: nn.Module, images: Tensor, args: Any) -> dict[str, Any]:
    """Milliseconds of all shapes, FP32 and int8, in turns; and of eager PyTorch."""
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
    found = {name: median_spread(of) for name, of in times.items()}
    return {name: {"latency_ms": ms, "spread": spread, "x_eager": found["eager"][0] / ms} for name, (ms, spread) in found.items()}


def _in_int8(target: Any, module: nn.Module, images: Tensor) -> Any:
    subject = Subject.of(module, "cpu", images[:1])
    recipe = find_recipe("minmax")
    assignment = Space(read_space(target.name), subject.inventory, recipe.estimator).uniform(8, 8)
    quantized = Fresh(subject, images, 0, None).quantize(recipe, assignment)
    layers = deploy_layers(subject.model, subject.inventory, quantized, restore(subject.model, quantized))
    return target.build(target.skeleton(subject.model, [layer.name for layer in layers], images[:1]), layers)


def _draw(table: pd.DataFrame, title: str, args: Any) -> None:
    """Agreement against latency; the area of a point is its bytes."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    largest = float(table["size_bytes"].max())
    for axis, recovered in zip(axes, (False, True), strict=True):
        part = table[(table["recovered"] == recovered)]
        for colour, importance in zip((BLUE, ORANGE, GREEN, GREY, RED), (*CLASSICAL, OWN), strict=True):
            for bits, marker in (("fp32", "o"), ("int8", "s")):
                of = part[(part["importance"] == importance) & (part["bits"] == bits)].sort_values("latency_ms")
                label = importance if bits == "fp32" else None
                axis.plot(of["latency_ms"], of["agreement"], color=colour, lw=1, alpha=0.6)
                axis.scatter(
                    of["latency_ms"], of["agreement"], 120 * of["size_bytes"] / largest, color=colour, marker=marker, label=label
                )
        axis.set_xlabel("measured latency (ms)")
        axis.set_title("after recovery" if recovered else "before recovery")
    axes[0].set_ylabel("agreement with FP32 (%)")
    axes[1].legend(fontsize=7, title="importance; circles FP32, squares int8;\narea is size in bytes", title_fontsize=7)
    figure.suptitle(title)
    save(figure, table, args.out, "pruning")


if __name__ == "__main__":
    main()
