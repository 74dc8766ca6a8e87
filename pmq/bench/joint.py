"""``python -m pmq.bench.joint MODEL --run RUN...``: files of joint searches against PQV-Mobile's point, timed in turns.

That point (2408.08437): 9.375 % of hidden channels and of the width of heads removed by Taylor importance, then int8 by
post-training quantization. Start without runs to learn its latency; search for that (``pmq search --prune --budget
latency=...``), and start again with what was found.
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
from pmq.bench.subject import opened, parser
from pmq.core import Allocation
from pmq.core.files import quoted, read_json, write_csv
from pmq.core.rundir import CHOSEN, DEPLOYMENT
from pmq.core.validation import validated
from pmq.pipeline.pruned_model import load_pruned
from pmq.pipeline.subject import CALIB_IMAGES, HELD_OUT
from pmq.runtimes import TARGETS
from pmq.runtimes.deployment import Deployment
from pmq.runtimes.timing import interleaved, median_spread

RATIO = 0.09375
#: its point, and the same shape as we prune, recover and quantize it
POINTS: dict[str, tuple[dict[str, Any], str]] = {
    "PQV-Mobile": ({"importance": "taylor", "structures": STRUCTURES, "recovery": False}, "mse"),
    "same shape": ({}, "best"),
}


_Asked = tuple[Allocation | str, nn.Module, dict[str, Any]]


def main() -> None:
    """Print the table and write ``joint.csv``."""
    arguments = parser(__doc__)
    arguments.add_argument("--run", type=Path, nargs="*", default=[])
    arguments.add_argument("--target", default="openvino")
    arguments.add_argument("--rounds", type=int, default=100)
    args = arguments.parse_args()
    model, data = opened(args)
    images = data.calibration_images(CALIB_IMAGES + HELD_OUT, 0)
    indices = data.evaluation_indices(CALIB_IMAGES + HELD_OUT, 0, args.limit)
    judged = data.evaluation.first_readable(indices, len(indices))
    made: dict[str, Deployment] = {}
    for name, make in _files(model, images, args).items():
        folder = _folder(args, name)
        if not (folder / DEPLOYMENT).is_file():
            what, module, how = make()
            pmq.deploy(module, what, args.target, judged, folder, crop_pct=args.crop_pct, reference=model, **how)
        path = folder / DEPLOYMENT
        made[name] = validated(Deployment, read_json(path, "deployment"), f"deployment {quoted(path)}")
    target, image = TARGETS[args.target], judged[:1]
    sessions = {name: target.session(_folder(args, name) / of.file) for name, of in made.items()}
    times = interleaved({name: (lambda s=s: s(image.numpy())) for name, s in sessions.items()}, args.rounds)  # type: ignore[misc]
    ms = {name: median_spread(of) for name, of in times.items()}
    rows = [
        {"file": name, "latency_ms": ms[name][0], "spread": ms[name][1], "of_fp32": ms[name][0] / ms["FP32"][0]}
        | {"size_bytes": of.size_bytes, "agreement": of.agreement_fp32, "kl": of.kl_fp32, "n_images": of.n_images}
        | {"failed": ",".join(part for part, check in of.proof.items() if not check.passed)}
        for name, of in made.items()
    ]
    found = pd.DataFrame(rows)
    write_csv(args.out / "joint.csv", found)
    print(found.to_string(index=False))


def _folder(args: Any, name: str) -> Path:
    return Path(args.out) / "deployed" / name.replace(" ", "-")


def _files(model: nn.Module, images: Tensor, args: Any) -> dict[str, Callable[[], _Asked]]:
    """What to deploy, of which model, and how; made when it is wanted."""
    calibration = {"calibration_images": images[:CALIB_IMAGES]}

    def point(how: dict[str, Any], recipe: str) -> _Asked:
        pruned = pmq.prune(model, images, RATIO, round_to=ROUND_TO, crop_pct=args.crop_pct, **how)
        return "w8a8", load_pruned(pruned.allocation), calibration | {"recipe": recipe}

    found: dict[str, Callable[[], _Asked]] = {"FP32": lambda: ("fp32", model, {}), "int8": lambda: ("w8a8", model, calibration)}
    found |= {name: partial(point, *of) for name, of in POINTS.items()}
    return found | {run.name: partial(lambda run: (Allocation.load(run / CHOSEN), model, {}), run) for run in args.run}


if __name__ == "__main__":
    main()
