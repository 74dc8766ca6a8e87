"""``python -m pmq.bench.maps MODEL WHAT... --data FOLDER --out FILE.csv``: errors of the maps of a quantized dense model.

``WHAT`` are allocations, runs or uniform bits. The maps of each are compared with those of FP32 on the evaluation images: squared
error relative to the map's own square, mean absolute error, correlation of the values of a map, and the intersection over union
(IoU) of the masks where values exceed one half. Each is a mean over images; images without a mask in both have no IoU.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

import pmq
from pmq.bench.subject import uniform_plan
from pmq.cli.output import print_table
from pmq.core.files import write_csv
from pmq.core.progress import track
from pmq.core.spec import read_what
from pmq.cost import CostModel
from pmq.models import create_model
from pmq.models.float_products import tune_process
from pmq.pipeline.evaluation_table import quantize_items

CALIBRATION = 32
#: value above which a position belongs to the mask
INSIDE = 0.5


def map_errors(reference: Tensor, maps: Tensor) -> dict[str, Tensor]:
    """Return the errors of maps ``(B, ...)``, each ``(B,)``.

    >>> errors = map_errors(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.6, 0.0]]))
    >>> {name: round(float(error), 2) for name, error in errors.items()}
    {'relative_error': 0.36, 'absolute_error': 0.2, 'correlation': 0.8, 'iou': 0.5}
    """
    reference, maps = reference.flatten(1).double(), maps.flatten(1).double()
    square = (maps - reference).square().sum(1) / reference.square().sum(1)
    centred = [x - x.mean(1, keepdim=True) for x in (reference, maps)]
    correlation = (centred[0] * centred[1]).sum(1) / (centred[0].norm(dim=1) * centred[1].norm(dim=1)).clamp(min=1e-30)
    masks = reference > INSIDE, maps > INSIDE
    either, both = (masks[0] | masks[1]).sum(1), (masks[0] & masks[1]).sum(1)
    iou = torch.where(either > 0, both / either.clamp(min=1), torch.nan)
    absolute = (maps - reference).abs().mean(1)
    return {"relative_error": square, "absolute_error": absolute, "correlation": correlation, "iou": iou}


def main() -> None:
    """Evaluate, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("what", nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--mean", type=float, nargs="+", default=[0.485, 0.456, 0.406])
    parser.add_argument("--std", type=float, nargs="+", default=[0.229, 0.224, 0.225])
    parser.add_argument("--space", default="default")
    parser.add_argument("--recipe", default="best")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    tune_process()
    model = create_model(args.model)
    data = pmq.open_images(args.data, model, data_config={"mean": tuple(args.mean), "std": tuple(args.std)})
    indices = data.evaluation_indices(CALIBRATION, args.seed, args.limit)
    what, batches = [read_what(name) for name in args.what], data.evaluation.batches(8, indices)
    images = data.calibration_images(CALIBRATION, args.seed)
    plan = uniform_plan(model, what, batches, images, args.space, args.recipe, args.seed)
    items = quantize_items(plan)
    errors: dict[tuple[int, str], list[Tensor]] = defaultdict(list)
    with torch.inference_mode():
        for images, _ in track(plan.labelled, "evaluating", -(-len(indices) // 8)):
            reference = plan.subject.model(images)
            for index, item in enumerate(items):
                for name, values in map_errors(reference, item.module(images)).items():
                    errors[index, name].append(values)
    rows = []
    for index, item in enumerate(items):
        costs = CostModel(item.subject.inventory).costs(item.assignment)
        figures = {name: float(torch.cat(parts).nanmean()) for (i, name), parts in errors.items() if i == index}
        rows.append({"allocation": args.what[index], "n_images": len(indices)} | costs | figures)
    table = pd.DataFrame(rows)
    write_csv(args.out, table)
    print_table("maps compared with FP32's", list(table.columns), table.to_numpy().tolist())


if __name__ == "__main__":
    main()
