"""Ablation of the recipes: ``python -m pmq.bench.ablation MODEL --data ... --checkpoint ... --out FILE``.

The parts of the recipes are added one by one to plain min-max quantization. All rows use the same calibration and evaluation
images. Rows that the file already contains are not measured again.
"""

from __future__ import annotations

import copy
import time

import pandas as pd

from pmq.bench.subject import benchmark_parser, open_model_and_data
from pmq.core.files import write_csv
from pmq.core.recipe import RECIPES, Recipe, find_recipe
from pmq.cost import CostModel
from pmq.evaluation import evaluate_models
from pmq.optimize import Space, SpaceFile, read_space
from pmq.pipeline.image_split import CALIB_IMAGES
from pmq.pipeline.subject import Subject
from pmq.quant import build_quantized_model, prepare, quantize

_FOLDED = {"transforms": ("fold_norms", "scale_channels", "center_channels", "center_values")}
_WEIGHED = {"estimator": "fisher", "gradients": True}
_ROTATED = {"transforms": RECIPES["best"].transforms}


def steps() -> list[tuple[str, Recipe, bool]]:
    """Return name, recipe and whether the default space's grids are used, in the order in which parts are added."""
    base = Recipe(name="ablation")
    folded = base.model_copy(update=_FOLDED)
    weighed = folded.model_copy(update=_WEIGHED)
    best = RECIPES["best"]
    return [
        ("min-max, even levels", base.model_copy(update={"estimator": "minmax"}), False),
        ("+ squared-error ranges", base, False),
        ("+ folded norms, scaled and centred channels", folded, False),
        ("+ Fisher-weighted ranges", weighed, False),
        ("+ log, power and codebook grids, a scale a head", weighed, True),
        ("+ rotations", weighed.model_copy(update=_ROTATED), True),
        ("+ compensated rounding (fast)", RECIPES["fast"], True),
        ("+ layer by layer (best)", best, True),
        ("best + ridge correction", best.model_copy(update={"ridge": 0.1}), True),
        ("best + reconstruction", find_recipe(best, reconstruct=True), True),
    ]


def main() -> None:
    """Measure and write a CSV with one row per part, bit-width and seed."""
    arguments = benchmark_parser(__doc__)
    arguments.add_argument("--calib-images", type=int, default=CALIB_IMAGES)
    arguments.add_argument("--bits", type=int, nargs="+", default=[8, 6, 4, 3])
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments.add_argument("--only", default="", help="measure only the parts whose name contains this text")
    args = arguments.parse_args()
    model, data = open_model_and_data(args)
    done = pd.read_csv(args.out) if args.out.is_file() else pd.DataFrame(columns=["part", "bits", "seed"])
    default = read_space("default")
    for seed in args.seeds:
        images = data.calibration_images(args.calib_images, seed)
        indices = data.evaluation_indices(args.calib_images, seed, args.limit)
        for part, recipe, grids in steps():
            missing = [b for b in args.bits if not ((done.part == part) & (done.bits == b) & (done.seed == seed)).any()]
            if args.only not in part or not missing:
                continue
            space = default if grids else SpaceFile(**default.model_dump(include={"name", "weight", "activation", "pins"}))
            rows, models = [], []
            start = time.perf_counter()
            subject = Subject.of(model, crop_pct=args.crop_pct)
            prepared = prepare(subject.model, subject.inventory, images, recipe, seed, task=subject.task)
            preparation = time.perf_counter() - start
            for bits in missing:
                start = time.perf_counter()
                assignment = Space(space, subject.inventory, recipe.estimator).uniform(bits, bits)
                quantized = quantize(prepared, assignment, args.out.parent / ".learned")
                seconds = preparation + time.perf_counter() - start
                models.append(build_quantized_model(copy.deepcopy(prepared.model), subject.inventory, quantized).model)
                costs = CostModel(subject.inventory)
                row = {"part": part, "bits": bits, "seed": seed, "seconds": round(seconds, 1)}
                rows.append(row | {"size_bytes": costs.size_bytes(assignment), "bit_ops": costs.bit_ops(assignment)})
            evaluations = evaluate_models(model, models, data.evaluation.batches(32, indices), subject.task)
            columns = ("top1", "agreement", "kl")
            rows = [
                row | {k: metrics[k] for k in columns} | {"n_images": len(indices)}
                for row, metrics in zip(rows, evaluations, strict=True)
            ]
            done = pd.concat([done, pd.DataFrame(rows)], ignore_index=True)
            write_csv(args.out, done)
            print(pd.DataFrame(rows).to_string(), flush=True)


if __name__ == "__main__":
    main()
