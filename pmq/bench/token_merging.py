"""Gain from merged tokens: ``python -m pmq.bench.token_merging MODEL --data ... --checkpoint ... --out FILE``.

Proposes mergings by the errors of single ones on training images. Then times int8 files that merge tokens in turns with the
one that does not, with one thread and one image, and lets each classify the validation images. ``skipped`` files besides leave
out the patches of the last block, which nothing reads.
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
from pmq.core.recipe import find_recipe
from pmq.core.spec import read_bits
from pmq.evaluation import Accuracy
from pmq.graph.token_skipping import skip_tokens, tokenwise_units
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
    """Measure and write a CSV with one row per runtime, merging, and whether the last block is skipped."""
    arguments = benchmark_parser(__doc__)
    arguments.add_argument("--targets", nargs="+", default=["onnxruntime", "openvino"])
    arguments.add_argument("--mergings", type=int, default=6, help="number of mergings, that of no tokens among them")
    args = arguments.parse_args()
    model, data = open_model_and_data(args)
    torch.set_num_threads(1)
    images = data.calibration_images(N_CALIBRATION + N_PROBED, 0)
    indices = data.evaluation_indices(len(images), 0, args.limit)
    evaluated = torch.cat([batch[0] for batch in data.evaluation.batches(64, indices)])
    subject = Subject.of(model, "cpu", images[:1], args.crop_pct)
    space = Space(read_space(args.targets[0]), subject.inventory)
    choice = MergingChoice(
        subject, space, find_recipe("mse"), images[:N_CALIBRATION], images[N_CALIBRATION:], SearchOptions(), RunOptions()
    )
    proposed = choice.proposed(args.mergings)
    reference = torch.cat([subject.model(x) for x in evaluated.split(32)])
    rows = []
    for target in args.targets:
        rows += _measure(target, proposed, images[:N_CALIBRATION], evaluated, reference)
        write_csv(args.out, pd.DataFrame(rows))


def _measure(
    target: str, proposed: list[Subject], calibration: Tensor, evaluated: Tensor, reference: Tensor
) -> list[dict[str, Any]]:
    sessions = {}
    for merged in proposed:
        label = "none" if merged.merging is None else merged.merging.label
        for skipped in (False, True):
            sessions[label, skipped] = _session(target, merged, calibration, skipped)
            print(target, label, "skipped" if skipped else "", flush=True)
    image = evaluated[:1].numpy()
    times = interleaved({str(key): (lambda s=s: s(image)) for key, s in sessions.items()}, ROUNDS)  # type: ignore[misc]
    whole, rows = times[str(("none", False))], []
    for (label, skipped), session in sessions.items():
        milliseconds = times[str((label, skipped))]
        total = Accuracy()
        total.update(reference, outputs_for(session, (x.numpy() for x in evaluated.split(1))), None)
        figures = total.compute()
        row = {"target": target, "merged": label, "skipped": skipped, "ms": median_spread(milliseconds)[0]}
        row |= {"spread": median_spread(milliseconds)[1], "of_int8": float(np.median(milliseconds / whole))}
        rows.append(row | {"agreement": figures["agreement"], "kl": figures["kl"], "n_images": len(evaluated)})
        print(rows[-1], flush=True)
    return rows


def _session(target: str, merged: Subject, calibration: Tensor, skipped: bool) -> Any:
    runtime, inventory = TARGETS[target], merged.inventory
    assignment = dict(Space(read_space(target), inventory).uniform(*read_bits("w8a8")))
    quantized = RecipeQuantizer(merged, calibration, 0, None).quantize(find_recipe("mse"), assignment)
    model = copy.deepcopy(merged.model)
    layers = deploy_layers(model, inventory, quantized, restore(model, quantized))
    if skipped:
        for unit in tokenwise_units(model, inventory)[-2:]:
            skip_tokens(model, unit, range(1))
    skeleton = runtime.skeleton(model, [layer.name for layer in layers], calibration[:1])
    return runtime.session(runtime.build(skeleton, layers), 1)


if __name__ == "__main__":
    main()
