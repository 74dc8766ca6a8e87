"""Gain from merged tokens: ``python -m pmq.bench.token_merging MODEL --data ... --checkpoint ... --out FILE``.

Proposes mergings by the errors of single ones on training images. Then times int8 files that merge tokens in turns with the
one that does not, with one thread and one image, and lets each classify the validation images.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pmq.bench.subject import benchmark_parser, open_model_and_data
from pmq.core.files import write_csv
from pmq.core.merging import MergingPlan
from pmq.core.recipe import Recipe, find_recipe
from pmq.core.spec import read_bits
from pmq.evaluation import Accuracy
from pmq.graph.token_merging import mergeable_blocks, prefix_tokens
from pmq.optimize import Space, read_space
from pmq.pipeline.quantize import RecipeQuantizer
from pmq.pipeline.search.merging import MergingChoice
from pmq.pipeline.search.options import RunOptions, SearchOptions
from pmq.pipeline.subject import Subject
from pmq.quant import restore
from pmq.runtimes import TARGETS
from pmq.runtimes.layer import deploy_layers
from pmq.runtimes.proof import outputs_for
from pmq.runtimes.timing import interleaved, median_spread

ROUNDS, N_CALIBRATION, N_PROBED = 60, 32, 48


@torch.no_grad()
def main() -> None:
    """Measure and write a CSV with one row per runtime and merging."""
    arguments = benchmark_parser(__doc__)
    arguments.add_argument("--targets", nargs="+", default=["onnxruntime", "openvino"])
    arguments.add_argument("--mergings", type=int, default=6, help="number of mergings, that of no tokens among them")
    arguments.add_argument("--plans", nargs="+", help="mergings in place of proposals, such as blocks.3:32,blocks.7:40")
    arguments.add_argument("--recipe", default="mse", help="recipe that quantizes to 8 bits")
    args = arguments.parse_args()
    recipe = find_recipe(args.recipe)
    model, data = open_model_and_data(args)
    torch.set_num_threads(1)
    images = data.calibration_images(N_CALIBRATION + N_PROBED, 0)
    indices = data.evaluation_indices(len(images), 0, args.limit)
    evaluated = torch.cat([batch[0] for batch in data.evaluation.batches(64, indices)])
    subject = Subject.of(model, "cpu", images[:1], args.crop_pct)
    if args.plans:
        proposed = [subject, *(subject.merged(_plan(subject, text)) for text in args.plans)]
    else:
        space = Space(read_space(args.targets[0]), subject.inventory)
        parts = images[:N_CALIBRATION], images[N_CALIBRATION:]
        choice = MergingChoice(subject, space, recipe, *parts, SearchOptions(), RunOptions())
        proposed = choice.proposed(args.mergings)
    reference = torch.cat([subject.model(x) for x in evaluated.split(32)])
    rows = []
    for target in args.targets:
        rows += _measure(target, recipe, proposed, images[:N_CALIBRATION], evaluated, reference)
        write_csv(args.out, pd.DataFrame(rows))


def _plan(subject: Subject, text: str) -> MergingPlan:
    """Return the merging that a text such as ``blocks.3:32,blocks.7:40`` states."""
    merged = {block: int(count) for block, _, count in (part.rpartition(":") for part in text.split(","))}
    tokens = next(iter(mergeable_blocks(subject.model).values())).n_tokens
    return MergingPlan(tokens=tokens, prefix=prefix_tokens(subject.model), merged=merged)


def _measure(
    target: str, recipe: Recipe, proposed: list[Subject], calibration: Tensor, evaluated: Tensor, reference: Tensor
) -> list[dict[str, Any]]:
    sessions = {}
    for subject in proposed:
        label = "none" if subject.merging is None else subject.merging.label
        sessions[label] = _session(target, recipe, subject, calibration)
        print(target, label, flush=True)
    image = evaluated[:1].numpy()
    times = interleaved({label: (lambda s=s: s(image)) for label, s in sessions.items()}, ROUNDS)  # type: ignore[misc]
    rows = []
    for label, session in sessions.items():
        total = Accuracy()
        total.update(reference, outputs_for(session, (x.numpy() for x in evaluated.split(1))), None)
        figures, (milliseconds, spread) = total.compute(), median_spread(times[label])
        row = {"target": target, "recipe": recipe.name, "merged": label, "ms": milliseconds, "spread": spread}
        row["of_int8"] = float(np.median(times[label] / times["none"]))
        rows.append(row | {"agreement": figures["agreement"], "kl": figures["kl"], "n_images": len(evaluated)})
        print(rows[-1], flush=True)
    return rows


def _session(target: str, recipe: Recipe, subject: Subject, calibration: Tensor) -> Any:
    runtime, inventory = TARGETS[target], subject.inventory
    assignment = dict(Space(read_space(target), inventory).uniform(*read_bits("w8a8")))
    quantized = RecipeQuantizer(subject, calibration, 0, None).quantize(recipe, assignment)
    model = copy.deepcopy(subject.model)
    layers = deploy_layers(model, inventory, quantized, restore(model, quantized))
    skeleton = runtime.skeleton(model, [layer.name for layer in layers], calibration[:1])
    return runtime.session(runtime.build(skeleton, layers), 1)


if __name__ == "__main__":
    main()
