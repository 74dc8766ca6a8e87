"""Cost of token errors: ``python -m pmq.bench.token_estimate ALLOCATION MODEL --data ... --checkpoint ... --out FILE``.

Times the layerwise Fisher estimate of all components, and the estimates of all tokens by position and by rank, on the same
images around the same allocation, interleaved.
"""

from __future__ import annotations

import pandas as pd

from pmq.bench.subject import benchmark_parser, open_allocation
from pmq.core.files import write_csv
from pmq.graph import analyse
from pmq.metrics import METRICS
from pmq.optimize import Space, read_space
from pmq.patches import token_errors
from pmq.pipeline.patches.kinds import SCORE
from pmq.quant.token_scores import Ranker
from pmq.runtimes.timing import interleaved, median_spread

ROUNDS = 5


def main() -> None:
    """Measure and write a CSV with one row per estimate."""
    args = benchmark_parser(__doc__, "allocation").parse_args()
    opened = open_allocation(args)
    reallocator = opened.reallocator
    probe, ranker = reallocator.probe, Ranker(SCORE, reallocator.prefix)
    inventory, estimator = analyse(opened.model, opened.images[:1])[1], reallocator.allocation.recipe.estimator
    space = Space(read_space("default"), inventory, estimator)
    layers = {name: list(choices) for name, choices in space.choices.items()}

    def estimate_tokens(ranker: Ranker | None) -> None:
        probe.simulator.apply(probe.base)
        token_errors(probe, reallocator.places, reallocator.choices, ranker)

    calls = {
        "layers": lambda: METRICS["fisher"].measure(probe, layers),
        "tokens": lambda: estimate_tokens(None),
        f"tokens by {SCORE}": lambda: estimate_tokens(ranker),
    }
    rows = []
    for name, times in interleaved(calls, ROUNDS).items():
        median, spread = median_spread(times)
        rows.append({"estimate": name, "seconds": median / 1e3, "spread": spread, "n_images": len(probe.images)})
    table = pd.DataFrame(rows)
    table["ratio"] = table["seconds"] / table["seconds"][0]
    print(table.to_string(index=False))
    write_csv(args.out, table)


if __name__ == "__main__":
    main()
