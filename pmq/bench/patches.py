"""What bits of single patches are worth: ``python -m pmq.bench.patches ALLOCATION MODEL --data ... --checkpoint ... --out FILE``.

At equal bit operations: an allocation as it is, with static and dynamic maps, and with the same shares of bits given to
random tokens, or to random patches while the class token keeps its own (draws of positions, or of ranks image by image);
then with fewer bit operations. All are carried out in the same way and judged on the same images.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch

from pmq.bench.subject import allocated, parser
from pmq.core import Allocation
from pmq.core.files import write_csv
from pmq.core.patches import PatchMap, TokenBits
from pmq.evaluation import evaluate_models
from pmq.pipeline.allocation import load_quantized
from pmq.pipeline.patches.reallocator import Reallocator
from pmq.pipeline.subject import Subject
from pmq.quant import build_quantized_model


def main() -> None:
    """Measure and write a CSV, a row for each map."""
    arguments = parser(__doc__, "allocation")
    arguments.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.9, 0.8], help="of the allocation's bit operations")
    arguments.add_argument("--scores", nargs="+", default=["class_range", "range"])
    arguments.add_argument("--draws", type=int, default=5, help="of random tokens")
    args = arguments.parse_args()
    given = allocated(args)
    subject = Subject.of(given.model, "cpu", given.images[:1], args.crop_pct)
    rows: list[dict[str, Any]] = []
    for name, share, item in _maps(given.reallocator, args.shares, args.scores, args.draws):
        module = build_quantized_model(copy.deepcopy(subject.model), subject.inventory, load_quantized(subject, item)).model
        torch.manual_seed(len(rows))  # of random ranks
        batches = given.data.evaluation.batches(32, given.indices)
        (found,) = evaluate_models(subject.model, [module], batches, subject.task)
        assert item.budget is not None
        rows.append({"patches": name, "share": share} | item.budget.achieved | found)
        print(rows[-1], flush=True)
        write_csv(args.out, pd.DataFrame(rows))


def _maps(
    reallocator: Reallocator, shares: list[float], scores: list[str], draws: int
) -> Iterator[tuple[str, float, Allocation]]:
    map_evaluator = reallocator.map_evaluator
    yield "none", 1.0, reallocator.allocation
    for share in shares:
        static = reallocator.allocate("static", share)
        dynamic = {score: reallocator.allocate("dynamic", share, score) for score in scores}
        yield "static", share, static
        yield from ((f"dynamic {score}", share, found) for score, found in dynamic.items())
        best = _map_of(dynamic[scores[0]])
        for draw in range(draws if share == 1 else 0):
            for prefix, who in ((0, "tokens"), (best.prefix, "patches")):
                torch.manual_seed(draw)
                lucky = _shuffled(_map_of(static), draw, prefix), best.model_copy(update={"score": "random", "prefix": prefix})
                for kind, patches in zip(("static", "dynamic"), lucky, strict=True):
                    yield (
                        f"{kind}, random {who} {draw}",
                        share,
                        map_evaluator.better(map_evaluator.laid_over(patches, {})),
                    )


def _shuffled(patches: PatchMap, seed: int, prefix: int) -> PatchMap:
    """The same shares of bits in each activation, for tokens that are drawn by lot; the first ``prefix`` keep theirs."""
    rng = np.random.default_rng(seed)
    drawn = {
        name: TokenBits.of([*tokens.array[:prefix], *rng.permutation(tokens.array[prefix:])], tokens.others)
        for name, tokens in patches.components.items()
    }
    return patches.model_copy(update={"components": drawn})


def _map_of(allocation: Allocation) -> PatchMap:
    assert allocation.patches is not None
    return allocation.patches


if __name__ == "__main__":
    main()
