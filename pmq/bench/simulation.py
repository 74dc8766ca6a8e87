"""Speed of the simulator compared with the FP32 forward pass of the same model, measured interleaved."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pmq.graph import analyse
from pmq.models import create_model, model_info
from pmq.optimize import Space, read_space
from pmq.quant import Simulator, calibrate
from pmq.runtimes import timing


@dataclass(frozen=True)
class Timing:
    """Median milliseconds of a forward pass, and median and quartiles of the speed ratio of neighbouring passes."""

    name: str
    ms: float
    ratio: float
    low: float
    high: float


def interleaved(cases: dict[str, Callable[[], object]], repeats: int) -> list[Timing]:
    """Time ``cases`` interleaved, ``repeats`` times, relative to the first; a ratio above 1 is faster than the first."""
    times = timing.interleaved(cases, repeats)
    base = times[next(iter(times))]
    timings = []
    for name, durations in times.items():
        ratios = sorted(b / t for b, t in zip(base, durations, strict=True))
        quarter = len(ratios) // 4
        timings.append(
            Timing(name, statistics.median(durations), statistics.median(ratios), ratios[quarter], ratios[-1 - quarter])
        )
    return timings


@torch.no_grad()
def simulation_speed(model_name: str | None, batch_size: int, repeats: int = 15) -> list[Timing]:
    """Time the user's FP32 model (fused attention), and W4A4 and W8A8 with warm caches, without and with bfloat16."""
    reference = create_model(model_name, pretrained=False)
    images = torch.randn(batch_size, *model_info(reference).data_config["input_size"])
    _, inventory = analyse(reference, images[:1])
    space = Space(read_space("default"), inventory)
    simulators = {}
    for name, bits in (("w4a4", 4), ("w8a8", 8)):
        model, _ = analyse(create_model(model_name, pretrained=False), images[:1])
        simulator = Simulator(model, inventory, calibrate(model, inventory, images[:4]))
        simulator.apply(space.uniform(bits, bits))
        simulators[name] = simulator
    cases: dict[str, Callable[[], object]] = {"fp32": lambda: reference(images)}
    cases |= {name: lambda s=s: s.model(images) for name, s in simulators.items()}  # type: ignore[misc]

    def half(simulator: Simulator) -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return simulator.model(images)

    cases |= {f"{name} --amp": lambda s=s: half(s) for name, s in simulators.items()}  # type: ignore[misc]
    return interleaved(cases, repeats)
