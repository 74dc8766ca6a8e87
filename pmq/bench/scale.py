"""``python -m pmq.bench.scale STEP``: what workers gain and cost.

``overhead``   milliseconds per task, and the growth of the driver's memory with 10,000 tasks that wait
``evaluate``   one worker of one thread against two, on the same images
``search``     the same of a search
``law``        recorded task times of both, simulated on up to 1,000 workers
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pmq.api import search
from pmq.bench.subject import uniform_plan
from pmq.bench.workers import Overhead, Phase, RecordingExecutor, predicted_seconds, simulated_seconds
from pmq.cli.output import print_table
from pmq.core.memory_limit import resident_bytes
from pmq.data import Data, open_data
from pmq.data.image_shards import ImageShards
from pmq.evaluation import RayOptions, executor_of
from pmq.evaluation.comparison import Comparison
from pmq.evaluation.executor import Unit
from pmq.evaluation.ray_worker import pack
from pmq.evaluation.sharded import evaluate_shards
from pmq.models import create_model, model_info
from pmq.models.float_products import tune_process
from pmq.pipeline.evaluation_table import quantize_items
from pmq.pipeline.search.clock import Clock
from pmq.pipeline.search.options import DataSplit, RunOptions, SearchOptions
from pmq.pipeline.search.plan import plan_search
from pmq.pipeline.search.steps import calibrate, choose, explore_space

TASKS, WAITING = 2000, 10_000
CALIBRATION, HELD_OUT = 32, 256
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)


@dataclass(frozen=True)
class Subject:
    """Model and images of the measurements, as the command line selects them."""

    model: nn.Module
    data: Data
    limit: int
    what: tuple[str, ...]

    def quantized(self) -> tuple[Comparison, ImageShards]:
        """Quantize uniform allocations, and return them with the shards to evaluate them on."""
        shards = self.data.evaluation_shards(32, self.data.evaluation_indices(CALIBRATION, 0, self.limit))
        images = self.data.calibration_images(CALIBRATION, 0)
        plan = uniform_plan(self.model, list(self.what), shards, images, "default", "fast", 0)
        modules = [item.module for item in quantize_items(plan)]
        return Comparison(plan.subject.model, modules, plan.subject.task), shards

    def search_images(self) -> Tensor:
        """Return the images of a search."""
        return self.data.calibration_images(self.data.at_most(CALIBRATION + HELD_OUT, CALIBRATION), 0)

    def search(self, ray: RayOptions | None) -> Any:
        """Search allocations of four bits."""
        return search(self.model, self.search_images(), "4bit", run=RunOptions(ray=ray))


def nothing(state: None, number: int) -> int:
    """Return the argument."""
    return number


def measure_overhead(workers: int) -> None:
    """Print the cost of a task that computes nothing, and the memory of many that wait."""
    with executor_of(RayOptions("local", workers)) as executor:
        executor.hold(None)
        list(executor.run([Unit(i, f"task {i}", nothing, (i,)) for i in range(50)]))
        start = time.perf_counter()
        list(executor.run([Unit(i, f"task {i}", nothing, (i,)) for i in range(TASKS)]))
        per_task_ms = 1e3 * (time.perf_counter() - start) / TASKS
        gc.collect()
        before = resident_bytes()
        grown = before
        units = [Unit(i, f"task {i}", nothing, (i,)) for i in range(WAITING)]
        for number, _ in enumerate(executor.run(units)):
            if number % 500 == 0:
                grown = max(grown, resident_bytes())
    rows = [[workers, per_task_ms, per_task_ms * workers, (grown - before) / 1e6]]
    columns = ["workers", "driver's ms per task", "ms of a worker per task", f"MB more with {WAITING} tasks"]
    print_table("overhead of tasks that compute nothing", columns, rows)


def measure_ratio(run: Callable[[RayOptions], Any], name: str, repeats: int) -> None:
    """Print the times of one and of two workers, measured in turns on one cluster of two CPUs; each time workers start first."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    times: dict[int, list[float]] = {1: [], 2: []}
    for repeat in range(repeats):
        for workers in (1, 2) if repeat % 2 == 0 else (2, 1):
            start = time.perf_counter()
            run(RayOptions("auto", workers))
            times[workers].append(time.perf_counter() - start)
    ray.shutdown()
    ratios = [two / one for one, two in zip(times[1], times[2], strict=True)]
    rows = [[name, *(statistics.median(times[n]) for n in (1, 2)), statistics.median(ratios), max(ratios)]]
    print_table("two workers of one thread against one", ["work", "s of one", "s of two", "ratio", "worst"], rows)


def record_evaluation(subject: Subject) -> tuple[list[Phase], int]:
    """Return the phases of an evaluation and the bytes of its state."""
    executor = RecordingExecutor()
    comparison, shards = subject.quantized()
    evaluate_shards(comparison, shards, executor, None)
    return executor.finished(), state_bytes(comparison)


def record_search(subject: Subject) -> tuple[list[Phase], int]:
    """Return the phases of a search and the bytes of its state."""
    executor, clock = RecordingExecutor(), Clock()
    plan = plan_search(
        *(subject.model, subject.search_images(), "4bit", "default", None),
        *(SearchOptions(), DataSplit(CALIBRATION, HELD_OUT), RunOptions()),
    )
    prepared = calibrate(plan)
    size = state_bytes(prepared)
    choose(plan, prepared, explore_space(plan, prepared, executor, clock), executor)
    return executor.finished(), size


def state_bytes(state: Any) -> int:
    """Return the size of a state as workers receive it."""
    from ray import cloudpickle

    return len(pack(state, cloudpickle))


def print_law(name: str, phases: list[Phase], size: int, overhead: Overhead) -> None:
    """Print the time on more and more workers, by simulation and by the law."""
    one, rows = simulated_seconds(phases, 1, overhead), []
    for workers in WORKERS:
        seconds, law = (f(phases, workers, overhead) for f in (simulated_seconds, predicted_seconds))
        rows.append([workers, seconds, law, f"{law / seconds - 1:+.1%}", one / seconds, f"{one / seconds / workers:.0%}"])
    tasks, serial = [seconds for phase in phases for seconds in phase.task_s], sum(phase.serial_s for phase in phases)
    title = f"{name}: {len(tasks)} tasks of {statistics.mean(tasks):.3f} s (longest {max(tasks):.2f} s) in {len(phases)} phases"
    results = sum(phase.result_bytes for phase in phases)
    title += f", {serial:.1f} s of the driver alone, state of {size / 1e6:.1f} MB, results of {results / 1e6:.2f} MB"
    print_table(title, ["workers", "simulated s", "law s", "law", "speed-up", "efficiency"], rows)


def main() -> None:
    """Measure one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("overhead", "evaluate", "search", "law"))
    parser.add_argument("model", nargs="?")
    parser.add_argument("--checkpoint")
    parser.add_argument("--data")
    parser.add_argument("--what", default="w8a8,w6a6,w4a4,fp32")
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="workers that measure the overhead")
    parser.add_argument("--times", type=int, default=1, help="evaluation: as for so many times the images")
    parser.add_argument("--dispatch-ms", type=float, default=1.0, help="the driver's time for each task, for the law")
    parser.add_argument("--latency-ms", type=float, default=2.0, help="a worker's time for each task, for the law")
    parser.add_argument("--start-s", type=float, default=8.0, help="time in which workers start, for the law")
    args = parser.parse_args()
    tune_process()
    torch.set_num_threads(1)
    if args.step == "overhead":
        measure_overhead(args.workers)
        return
    model = create_model(args.model, args.checkpoint)
    data = open_data(args.data, model_info(model))
    subject = Subject(model, data, min(args.limit, len(data.evaluation)), tuple(args.what.split(",")))
    name = args.model or "embedded"
    if args.step == "law":
        overhead = Overhead(args.dispatch_ms / 1e3, args.latency_ms / 1e3, args.start_s)
        phases, size = record_evaluation(subject)
        n = args.times
        more = [replace(phase, task_s=phase.task_s * n, result_bytes=phase.result_bytes * n) for phase in phases]
        print_law(f"evaluation of {name} on {n} x {subject.limit} images", more, size, overhead)
        print_law(f"search of {name}", *record_search(subject), overhead)
        return
    if args.step == "search":
        measure_ratio(subject.search, f"search {name}", args.repeats)
        return
    comparison, shards = subject.quantized()  # which one process does, whatever the workers

    def evaluate(options: RayOptions) -> None:
        with executor_of(options) as executor:
            evaluate_shards(comparison, shards, executor, None)

    measure_ratio(evaluate, f"evaluate {name}", args.repeats)


if __name__ == "__main__":
    main()
