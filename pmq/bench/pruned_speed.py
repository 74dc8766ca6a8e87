"""``python -m pmq.bench.pruned_speed [MODEL]``: speed of a pruned int8 model compared with eager PyTorch, warm and cold.

Weights are random, as speed does not depend on them. A cold forward pass is the first of a new process, in which memory is
touched and kernels are chosen for the first time. PQV-Mobile (2408.08437) reports a speedup of 7.18x over such a baseline.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

import pmq
from pmq.bench.deploy import choices_of, products_alone
from pmq.cli.output import print_table
from pmq.cost.latency import PLAIN
from pmq.graph import analyse
from pmq.models import create_model, model_info
from pmq.pipeline.pruned_model import load_pruned
from pmq.runtimes import TARGETS
from pmq.runtimes.bench import Bench, Maker
from pmq.runtimes.timing import interleaved, median_spread

#: number of new processes that run one forward pass each
COLD = 5
_FIRST = """
import time, torch
from pmq.models import create_model, model_info
torch.set_num_threads(1)
model = create_model({name!r}, pretrained=False)
x = torch.randn(1, *model_info(model).data_config["input_size"])
start = time.perf_counter()
with torch.inference_mode():
    model(x)
print(1e3 * (time.perf_counter() - start))
"""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="deit_small_patch16_224")
    parser.add_argument("--ratio", type=float, default=0.25)
    parser.add_argument("--target", default="openvino")
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = create_model(args.model, pretrained=False)
    image = torch.randn(1, *model_info(model).data_config["input_size"])
    images, structures = image.expand(8, -1, -1, -1), ("hidden", "width")
    result = pmq.prune(model, images, args.ratio, importance="magnitude", structures=structures, recovery=False)
    pruned = load_pruned(result.allocation)
    cases: dict[str, Callable[[], object]] = {}
    for name, module in (("unpruned", model), ("pruned", pruned)):
        cases |= _cases(name, module, args.target, image)
    latencies = {name: median_spread(times) for name, times in interleaved(cases, args.rounds).items()}
    warm = latencies["unpruned, eager PyTorch"][0]
    script = [sys.executable, "-c", _FIRST.format(name=args.model)]
    firsts = [float(subprocess.run(script, capture_output=True, text=True, check=True).stdout) for _ in range(COLD)]
    cold = float(np.median(firsts))
    rows = [[name, ms, f"{spread:.0%}", f"{warm / ms:.2f}", f"{cold / ms:.2f}"] for name, (ms, spread) in latencies.items()]
    rows.append(
        ["unpruned, eager PyTorch, cold", cold, f"{(max(firsts) - min(firsts)) / cold:.0%}", f"{warm / cold:.2f}", "1.00"]
    )
    columns = ["model", "ms", "spread", "x eager, warm", "x eager, cold"]
    print_table(f"{args.model}, {args.ratio:.2%} of channels removed, {args.target}, one image, one thread", columns, rows)


def _cases(name: str, module: nn.Module, target_name: str, image: torch.Tensor) -> dict[str, Callable[[], object]]:
    model, inventory = analyse(module, image)
    choices, target = choices_of(target_name, inventory), TARGETS[target_name]
    bench = Bench(target, target.skeleton(model, list(choices), image), Maker(model, inventory, choices))

    def eager() -> object:
        with torch.inference_mode():
            return module(image)

    cases: dict[str, Callable[[], object]] = {f"{name}, eager PyTorch": eager}
    for label, key in (("FP32", PLAIN), ("int8", target.int8)):
        session = bench.session(dict.fromkeys(choices, key))
        cases[f"{name}, {target_name} {label}"] = lambda session=session: session(image.numpy())  # type: ignore[misc]
    cases[f"{name}, int8 products alone"] = products_alone(inventory)
    return cases


if __name__ == "__main__":
    main()
