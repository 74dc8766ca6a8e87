"""``python -m pmq.bench [--threads 1]``: benchmark simulation, deployed models, calibration memory, sensitivity and search."""

from __future__ import annotations

import argparse

import torch

from pmq.api import sensitivity
from pmq.bench.deploy import installed_targets, predictions, runtime_speed
from pmq.bench.memory import calibration_peak
from pmq.bench.search import EVALUATIONS, evaluations_per_second, front_gaps
from pmq.bench.simulation import simulation_speed
from pmq.cli.output import print_table
from pmq.data import open_data
from pmq.models import create_model, model_info
from pmq.models.float_products import tune_process

_TINY, _SMALL = "deit_tiny_patch16_224", "deit_small_patch16_224"
CASES = ((None, 64), (_TINY, 1), (_TINY, 8), (_TINY, 32), (_SMALL, 8), (_SMALL, 32))


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    tune_process()
    torch.set_num_threads(args.threads)
    rows = []
    for model, batch in CASES:
        for t in simulation_speed(model, batch, args.repeats):
            spread = f"{t.low:.2f}-{t.high:.2f}"
            rows.append([model or "embedded", batch, t.name, t.ms, 1e3 * batch / t.ms, f"{t.ratio:.2f}", spread])
    columns = ["model", "batch", "bits", "ms", "images/s", "x FP32", "quartiles"]
    print_table(f"simulation compared with FP32, warm cache, interleaved, {args.threads} thread(s)", columns, rows)
    timings, bound = runtime_speed(_SMALL, args.repeats)
    rows = [[t.name, t.ms, f"{t.ratio:.2f}", f"{t.low:.2f}-{t.high:.2f}", f"{t.ratio / bound:.0%}"] for t in timings]
    title = f"DeiT-Small deployed, random weights, one image, one thread; bound by its int8 products: {bound:.2f}x"
    print_table(title, ["model", "ms", "x eager", "quartiles", "of bound"], rows)
    mixtures = [p for name in installed_targets() for p in predictions(_TINY, name, args.repeats)]
    rows = [
        [p.target, p.mixture, p.predicted_ms, p.measured_ms, f"{p.measured_ms / p.predicted_ms - 1:+.1%}", p.spread]
        for p in mixtures
    ]
    columns = ["target", "mixture of modes", "predicted ms", "measured ms", "error", "spread"]
    print_table("latency of DeiT-Tiny with mixtures of modes that were not profiled, one thread", columns, rows)
    peaks = {n: calibration_peak(_TINY, n) for n in (32, 256)}
    rows = [[n, f"{megabytes:.0f}", f"{megabytes / peaks[32]:.2f}"] for n, megabytes in peaks.items()]
    print_table(
        "peak memory of calibration and quantization with recipe `best`, DeiT-Tiny at W4A4", ["images", "MB", "x 32 images"], rows
    )
    embedded = create_model()
    images = open_data(None, model_info(embedded)).calibration_images(48, 0)
    seconds = sensitivity(embedded, images, ("measured", "fisher_shrunk", "fisher"), n_calibration=24).attrs["seconds"]
    rows = [[name, f"{duration:.2f}", f"{seconds['measured'] / duration:.1f}"] for name, duration in seconds.items()]
    print_table("sensitivity of the embedded model, 24 images, quantizers fitted in advance", ["metric", "s", "x measured"], rows)
    rows = [[g.space, f"{g.nsga2:.4f}", f"{g.random:.4f}", g.nsga2_s, g.exact_s] for g in front_gaps()]
    columns = ["space", "NSGA-II", "random", "NSGA-II s", "exact s"]
    print_table(f"hypervolume as a share of the exact front's, embedded model, {EVALUATIONS} evaluations", columns, rows)
    rows = [[name, f"{speed:.0f}"] for name, speed in evaluations_per_second().items()]
    print_table(f"allocations of DeiT-Tiny evaluated, {args.threads} thread(s)", ["prediction", "per second"], rows)


if __name__ == "__main__":
    main()
