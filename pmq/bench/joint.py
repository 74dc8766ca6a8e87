"""``python -m pmq.bench.joint MODEL --run RUN...``: latency of joint searches compared with PQV-Mobile.

PQV-Mobile (2408.08437) removes 9.375 % of the hidden channels and of the width of heads by Taylor importance, then applies
post-training quantization to int8. First start without runs to measure the latency of its model, then search with that latency
as the budget (``pmq search --prune --budget latency=...``), and start again with the resulting runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

import pmq
from pmq.bench.pruning import ROUND_TO, STRUCTURES
from pmq.bench.subject import benchmark_parser, open_model_and_data
from pmq.core import Allocation
from pmq.core.files import quoted, read_json, write_csv
from pmq.core.rundir import CHOSEN, DEPLOYMENT
from pmq.core.validation import validated
from pmq.pipeline.image_split import CALIB_IMAGES, HELD_OUT
from pmq.pipeline.pruned_model import load_pruned
from pmq.pruning.reconstruction import Reconstruction
from pmq.runtimes import TARGETS
from pmq.runtimes.deployment import Deployment
from pmq.runtimes.timing import interleaved, median_spread

RATIO = 0.09375
#: importance, structures, whether layers are refitted, and recipe, of PQV-Mobile's model, and of the same shape pruned,
#: reconstructed and quantized by pmq
POINTS: dict[str, tuple[str, tuple[str, ...] | None, bool, str]] = {
    "PQV-Mobile": ("taylor", STRUCTURES, False, "mse"),
    "same shape": (Reconstruction.name, None, True, "best"),
}


#: what to deploy, the model to deploy it with, and the recipe that quantizes it
_Deployable = tuple[Allocation | str, nn.Module, str]


def main() -> None:
    """Measure, print the table and write ``joint.csv``."""
    arguments = benchmark_parser(__doc__)
    arguments.add_argument("--run", type=Path, nargs="*", default=[])
    arguments.add_argument("--target", default="openvino")
    arguments.add_argument("--rounds", type=int, default=100)
    args = arguments.parse_args()
    model, data = open_model_and_data(args)
    images = data.calibration_images(CALIB_IMAGES + HELD_OUT, 0)
    indices = data.evaluation_indices(CALIB_IMAGES + HELD_OUT, 0, args.limit)
    evaluation = data.evaluation.first_readable(indices, len(indices))
    deployments: dict[str, Deployment] = {}
    for name, make in _deployables(model, images, args).items():
        folder = _folder(args, name)
        if not (folder / DEPLOYMENT).is_file():
            what, module, recipe = make()
            pmq.deploy(
                module,
                what,
                args.target,
                evaluation,
                folder,
                calibration_images=images[:CALIB_IMAGES],
                recipe=recipe,
                reference=model,
                crop_pct=args.crop_pct,
            )
        path = folder / DEPLOYMENT
        deployments[name] = validated(Deployment, read_json(path, "deployment"), f"deployment {quoted(path)}")
    target, image = TARGETS[args.target], evaluation[:1]
    sessions = {name: target.session(_folder(args, name) / d.file) for name, d in deployments.items()}
    times = interleaved({name: (lambda s=s: s(image.numpy())) for name, s in sessions.items()}, args.rounds)  # type: ignore[misc]
    ms = {name: median_spread(timings) for name, timings in times.items()}
    rows = [
        {"file": name, "latency_ms": ms[name][0], "spread": ms[name][1], "of_fp32": ms[name][0] / ms["FP32"][0]}
        | {"size_bytes": d.size_bytes, "agreement": d.agreement_fp32, "kl": d.kl_fp32, "n_images": d.n_images}
        | {"failed": ",".join(part for part, check in d.proof.items() if not check.passed)}
        for name, d in deployments.items()
    ]
    table = pd.DataFrame(rows)
    write_csv(args.out / "joint.csv", table)
    print(table.to_string(index=False))


def _folder(args: Any, name: str) -> Path:
    return Path(args.out) / "deployed" / name.replace(" ", "-")


def _deployables(model: nn.Module, images: Tensor, args: Any) -> dict[str, Callable[[], _Deployable]]:
    """Return functions that create what is deployed, by name, so that files that exist already cost nothing."""

    def point(importance: str, structures: tuple[str, ...] | None, recovery: bool, recipe: str) -> _Deployable:
        pruned = pmq.prune(
            model,
            images,
            RATIO,
            importance=importance,
            structures=structures,
            recovery=recovery,
            round_to=ROUND_TO,
            crop_pct=args.crop_pct,
        )
        return "w8a8", load_pruned(pruned.allocation), recipe

    makers: dict[str, Callable[[], _Deployable]] = {
        "FP32": lambda: ("fp32", model, "best"),
        "int8": lambda: ("w8a8", model, "best"),
    }
    makers |= {name: partial(point, *arguments) for name, arguments in POINTS.items()}
    return makers | {run.name: partial(lambda run: (Allocation.load(run / CHOSEN), model, "best"), run) for run in args.run}


if __name__ == "__main__":
    main()
