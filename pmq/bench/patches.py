"""Gain from bits of single patches: ``python -m pmq.bench.patches ALLOCATION MODEL --data ... --checkpoint ... --out FILE``.

Compares at equal bit operations: an allocation without a map, with static and dynamic maps, and with the same shares of bits
assigned to random tokens, or to random patches while the class token keeps its bits (random positions, or random ranks in each
image); then static and dynamic maps with fewer bit operations. All are quantized alike and evaluated on the same images.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch

from pmq.bench.subject import benchmark_parser, open_allocation
from pmq.core import Allocation
from pmq.core.files import write_csv
from pmq.core.patches import PatchMap, TokenBits
from pmq.evaluation import evaluate_models
from pmq.pipeline.allocation import load_quantized
from pmq.pipeline.patches.reallocator import Reallocator
from pmq.pipeline.subject import Subject
from pmq.quant import build_quantized_model


def main() -> None:
    """Measure and write a CSV with one row per map."""
    arguments = benchmark_parser(__doc__, "allocation")
    arguments.add_argument(
        "--shares", type=float, nargs="+", default=[1.0, 0.9, 0.8], help="shares of the allocation's bit operations"
    )
    arguments.add_argument("--scores", nargs="+", default=["class_range", "range"])
    arguments.add_argument("--draws", type=int, default=5, help="number of random maps of each kind")
    args = arguments.parse_args()
    opened = open_allocation(args)
    subject = Subject.of(opened.model, "cpu", opened.images[:1], args.crop_pct)
    rows: list[dict[str, Any]] = []
    for name, share, allocation in _maps(opened.reallocator, args.shares, args.scores, args.draws):
        quantized = load_quantized(subject, allocation)
        module = build_quantized_model(copy.deepcopy(subject.model), subject.inventory, quantized).model
        torch.manual_seed(len(rows))  # seeds random ranks
        batches = opened.data.evaluation.batches(32, opened.indices)
        (metrics,) = evaluate_models(subject.model, [module], batches, subject.task)
        assert allocation.budget is not None
        rows.append({"patches": name, "share": share} | allocation.budget.achieved | metrics)
        print(rows[-1], flush=True)
        write_csv(args.out, pd.DataFrame(rows))


def _maps(
    reallocator: Reallocator, shares: list[float], scores: list[str], draws: int
) -> Iterator[tuple[str, float, Allocation]]:
    """Yield name, share of bit operations and allocation of each map."""
    map_evaluator = reallocator.map_evaluator
    yield "none", 1.0, reallocator.allocation
    for share in shares:
        static = reallocator.allocate("static", share)
        dynamic = {score: reallocator.allocate("dynamic", share, score) for score in scores}
        yield "static", share, static
        yield from ((f"dynamic {score}", share, allocation) for score, allocation in dynamic.items())
        best = _map_of(dynamic[scores[0]])
        for draw in range(draws if share == 1 else 0):
            for prefix, shuffled in ((0, "tokens"), (best.prefix, "patches")):
                torch.manual_seed(draw)
                random_maps = (
                    _shuffled(_map_of(static), draw, prefix),
                    best.model_copy(update={"score": "random", "prefix": prefix}),
                )
                for kind, patches in zip(("static", "dynamic"), random_maps, strict=True):
                    yield (
                        f"{kind}, random {shuffled} {draw}",
                        share,
                        map_evaluator.better(map_evaluator.with_map(patches, {})),
                    )


def _shuffled(patches: PatchMap, seed: int, prefix: int) -> PatchMap:
    """Return a map whose bits are shuffled among the tokens of each activation except the first ``prefix``."""
    rng = np.random.default_rng(seed)
    components = {
        name: TokenBits.of([*tokens.array[:prefix], *rng.permutation(tokens.array[prefix:])], tokens.others)
        for name, tokens in patches.components.items()
    }
    return patches.model_copy(update={"components": components})


def _map_of(allocation: Allocation) -> PatchMap:
    assert allocation.patches is not None
    return allocation.patches


if __name__ == "__main__":
    main()
