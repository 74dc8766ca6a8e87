"""Gain from skipping unread tokens: ``python -m pmq.bench.token_skipping MODEL --data ... --checkpoint ... --out FILE``.

Times files with all tokens and files without the patches of the last block, where only the class token is read, interleaved,
with one thread and one image: at int8, with 4-bit weights and in FP32.
"""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import torch

from pmq.bench.subject import benchmark_parser, open_model_and_data
from pmq.core.choice import FLOAT
from pmq.core.files import write_csv
from pmq.core.recipe import find_recipe
from pmq.core.spec import read_bits
from pmq.graph.token_skipping import skip_tokens, tokenwise_units
from pmq.optimize import Space, read_space
from pmq.pipeline.quantize import RecipeQuantizer
from pmq.pipeline.subject import Subject
from pmq.quant import restore
from pmq.runtimes import TARGETS
from pmq.runtimes.layer import deploy_layers
from pmq.runtimes.timing import interleaved, median_spread

ROUNDS = 60
WHAT = ("w8a8", "w4a32", "fp32")


def main() -> None:
    """Measure and write a CSV with one row per runtime and kind of layer."""
    arguments = benchmark_parser(__doc__)
    arguments.add_argument("--targets", nargs="+", default=["onnxruntime", "openvino"])
    args = arguments.parse_args()
    model, data = open_model_and_data(args)
    images = data.calibration_images(8, 0)
    subject = Subject.of(model, "cpu", images[:1], args.crop_pct)
    torch.set_num_threads(1)
    rows = [_measure(subject, images, target, what) for target in args.targets for what in WHAT]
    write_csv(args.out, pd.DataFrame(rows))


def _measure(subject: Subject, images: torch.Tensor, target: str, what: str) -> dict[str, object]:
    inventory, runtime = subject.inventory, TARGETS[target]
    assignment = dict.fromkeys(inventory.names, FLOAT)
    if what != "fp32":
        assignment = dict(Space(read_space(target), inventory).uniform(*read_bits(what)))
    quantized = RecipeQuantizer(subject, images, 0, None).quantize(find_recipe("minmax"), assignment)
    all_tokens = copy.deepcopy(subject.model)
    layers = deploy_layers(all_tokens, inventory, quantized, restore(all_tokens, quantized))
    skipping, names = copy.deepcopy(all_tokens), [layer.name for layer in layers]
    for unit in tokenwise_units(skipping, inventory)[-2:]:
        skip_tokens(skipping, unit, range(int(getattr(subject.module, "num_prefix_tokens", 1))))
    image = images[:1].numpy()
    skeletons = {name: runtime.skeleton(m, names, images[:1]) for name, m in (("whole", all_tokens), ("less", skipping))}
    sessions = {name: runtime.session(runtime.build(skeleton, layers)) for name, skeleton in skeletons.items()}
    difference = float(np.abs(sessions["whole"](image) - sessions["less"](image)).max())
    times = interleaved({"whole": lambda: sessions["whole"](image), "less": lambda: sessions["less"](image)}, ROUNDS)
    (ms, spread), (less_ms, less_spread) = median_spread(times["whole"]), median_spread(times["less"])
    row = {"target": target, "layers": what, "whole_ms": ms, "spread": spread, "less_ms": less_ms, "less_spread": less_spread}
    row |= {"ratio": ms / less_ms, "outputs_apart": difference}
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
