"""``python -m pmq.bench [--threads 1]``."""

from __future__ import annotations

import argparse

import torch

from pmq.api import sensitivity
from pmq.bench.simulation import simulation_speed
from pmq.cli.output import print_table
from pmq.core.memory import keep_freed_memory
from pmq.data import open_data
from pmq.models import create_model, model_info

CASES = ((None, 64), ("deit_tiny_patch16_224", 1), ("deit_tiny_patch16_224", 8), ("deit_tiny_patch16_224", 32))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    rows = []
    for model, batch in CASES:
        for t in simulation_speed(model, batch, args.repeats):
            spread = f"{t.low:.2f}-{t.high:.2f}"
            rows.append([model or "embedded", batch, t.name, t.ms, 1e3 * batch / t.ms, f"{t.ratio:.2f}", spread])
    columns = ["model", "batch", "bits", "ms", "images/s", "x FP32", "quartiles"]
    print_table(f"simulation against FP32, warm cache, interleaved, {args.threads} thread(s)", columns, rows)
    embedded = create_model()
    images = open_data(None, model_info(embedded)).calibration_images(24, 0)
    seconds = sensitivity(embedded, images, ("measured", "fisher")).attrs["seconds"]
    rows = [[name, f"{taken:.2f}", f"{seconds['measured'] / taken:.1f}"] for name, taken in seconds.items()]
    print_table("sensitivity of the embedded model, 24 images, quantizers fitted beforehand", ["metric", "s", "x measured"], rows)


if __name__ == "__main__":
    main()
