"""What bits of single patches are worth: ``python -m pmq.bench.patches ALLOCATION MODEL --data ... --checkpoint ... --out FILE``.

At equal bit operations: an allocation as it is, with static and dynamic maps, and with the same shares of bits given to
random tokens, several draws of them; then with fewer bit operations. All on the same images.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pandas as pd
import torch

from pmq.api.allocate import carry_out
from pmq.api.patches import Reallocator
from pmq.api.subject import Subject
from pmq.bench.subject import opened, parser
from pmq.core import Allocation
from pmq.core.files import write_csv
from pmq.core.patches import PatchMap, TokenBits
from pmq.evaluate import evaluate_models
from pmq.quant import realise

#: draws of random tokens
SEEDS = 5


def main() -> None:
    """Measure and write a CSV, a row for each map."""
    arguments = parser(__doc__, "allocation")
    arguments.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.9, 0.8], help="of the allocation's bit operations")
    arguments.add_argument("--scores", nargs="+", default=["class_range", "range"])
    args = arguments.parse_args()
    model, data = opened(args)
    allocation = Allocation.load(args.allocation)
    info = allocation.calibration
    assert info is not None and info.seed is not None
    images = data.calibration_images(info.n_images, info.seed)
    reallocator = Reallocator(model, allocation, images, args.crop_pct)
    maps = {("none", 1.0): allocation}
    for share in args.shares:
        maps["static", share] = static = reallocator.allocate("static", share)
        maps |= {(f"dynamic {score}", share): reallocator.allocate("dynamic", share, score) for score in args.scores}
        if share == 1:
            maps |= {(f"static, random {seed}", share): shuffled(static, seed) for seed in range(SEEDS)}
            first = maps[f"dynamic {args.scores[0]}", share]
            maps |= {(f"dynamic, random {seed}", share): _by_luck(first) for seed in range(SEEDS)}
    subject = Subject.of(model, "cpu", images[:1], args.crop_pct)
    indices = data.evaluation_indices(info.images_used, info.seed, args.limit)
    rows: list[dict[str, Any]] = []
    for (name, share), item in maps.items():
        module = realise(copy.deepcopy(subject.model), subject.inventory, carry_out(subject, item)).model
        torch.manual_seed(len(rows))  # of random ranks
        (found,) = evaluate_models(subject.model, [module], data.evaluation.batches(32, indices), subject.classifier)
        assert item.budget is not None
        rows.append({"patches": name, "share": share} | item.budget.achieved | found)
        print(rows[-1], flush=True)
        write_csv(args.out, pd.DataFrame(rows))


def shuffled(allocation: Allocation, seed: int) -> Allocation:
    """The same shares of bits in each activation, for tokens that are drawn by lot."""
    rng, patches = np.random.default_rng(seed), _map_of(allocation)
    drawn = {
        name: TokenBits(bits="".join(rng.permutation(list(tokens.bits))), others=tokens.others)
        for name, tokens in patches.components.items()
    }
    return _with(allocation, patches.model_copy(update={"components": drawn}))


def _by_luck(allocation: Allocation) -> Allocation:
    """The same shares for tokens that are ranked at random in each image, the class token among them."""
    return _with(allocation, _map_of(allocation).model_copy(update={"score": "random", "prefix": 0}))


def _map_of(allocation: Allocation) -> PatchMap:
    assert allocation.patches is not None
    return allocation.patches


def _with(allocation: Allocation, patches: PatchMap) -> Allocation:
    changed = allocation.model_copy(update={"patches": patches})
    return changed if allocation.tensors is None else changed.with_tensors(allocation.tensors)


if __name__ == "__main__":
    main()
