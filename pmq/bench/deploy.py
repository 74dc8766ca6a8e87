"""Latency of deployed models compared with eager PyTorch, and predicted compared with measured latency of mixtures of modes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pmq.bench.simulation import Timing, interleaved
from pmq.core import Inventory
from pmq.cost.latency import PLAIN
from pmq.graph import CapturedModel, analyse
from pmq.models import create_model, model_info
from pmq.optimize import Space, read_space
from pmq.runtimes import TARGETS
from pmq.runtimes.bench import Bench, Maker, Mode, mode_key
from pmq.runtimes.profile import profile_layers
from pmq.runtimes.timing import median_spread

#: number of mixtures whose latency is predicted and measured
MIXTURES = 6


@dataclass(frozen=True)
class Prediction:
    """Predicted and measured latency in milliseconds of a mixture of modes and of FP32."""

    target: str
    mixture: str
    predicted_ms: float
    measured_ms: float
    spread: float
    fp32_predicted_ms: float
    fp32_measured_ms: float

    @property
    def error(self) -> float:
        """Relative prediction error of the latency as a share of FP32's, which cancels changes of the machine's speed."""
        return (self.measured_ms / self.fp32_measured_ms) / (self.predicted_ms / self.fp32_predicted_ms) - 1


def runtime_speed(model_name: str, repeats: int = 15) -> tuple[list[Timing], float]:
    """Time FP32 and all-int8 files of every installed target and eager PyTorch, on one image, with random weights.

    Returns:
        The timings relative to eager PyTorch, and the bound on the speedup: the one of a model that consists only of the
        products of its layers, computed by PyTorch's int8 kernel.
    """
    model, inventory, image = _subject(model_name)

    def eager() -> object:
        with torch.inference_mode():
            return model(image)

    cases: dict[str, Callable[[], object]] = {"eager PyTorch": eager}
    for name in installed_targets():
        choices, target = choices_of(name, inventory), TARGETS[name]
        bench = Bench(target, target.skeleton(model, list(choices), image), Maker(model, inventory, choices))
        for label, key in (("FP32", PLAIN), ("int8", target.int8)):
            session = bench.session(dict.fromkeys(choices, key))
            cases[f"{name} {label}"] = lambda session=session: session(image.numpy())  # type: ignore[misc]
    cases["int8 products alone"] = products_alone(inventory)
    timings = interleaved(cases, repeats)
    return timings[:-1], timings[-1].ratio


def predictions(model_name: str, target: str, repeats: int = 15) -> list[Prediction]:
    """Profile a model, then predict and measure mixtures of modes that were not profiled."""
    model, inventory, image = _subject(model_name)
    choices, runtime = choices_of(target, inventory), TARGETS[target]
    table = profile_layers(runtime, model, inventory, choices, model_name, image.shape[1:], rounds=repeats)
    rng = np.random.default_rng(1)

    def draw(share: float, modes: Sequence[Mode]) -> str:
        return runtime.int8 if rng.random() < share else mode_key(modes[int(rng.integers(len(modes)))])

    shares = np.linspace(0.1, 0.9, MIXTURES)
    models = {f"{share:.0%} int8": {layer: draw(share, modes) for layer, modes in choices.items()} for share in shares}
    models["FP32"] = dict.fromkeys(choices, PLAIN)
    bench = Bench(runtime, runtime.skeleton(model, list(choices), image), Maker(model, inventory, choices), image.numpy())
    measured = {name: median_spread(times) for name, times in bench.times(models).items()}
    predicted = {name: table.whole_ms(keys) for name, keys in models.items()}
    plain = predicted.pop("FP32"), measured["FP32"][0]
    return [Prediction(target, name, ms, *measured[name], *plain) for name, ms in predicted.items()]


def installed_targets() -> list[str]:
    """Return the names of the targets whose runtime is installed."""
    return [name for name in TARGETS if TARGETS[name].installed]


def _subject(model_name: str) -> tuple[CapturedModel, Inventory, torch.Tensor]:
    model = create_model(model_name, pretrained=False).eval()
    image = torch.randn(1, *model_info(model).data_config["input_size"])
    return *analyse(model, image), image


def choices_of(target: str, inventory: Inventory) -> dict[str, list[Mode]]:
    """Return the modes of each layer that a target supports."""
    return Space(read_space(target), inventory).modes


def products_alone(inventory: Inventory) -> Callable[[], object]:
    """Return a function that computes the products of all layers for one image as int8."""
    pairs = []
    for operator in inventory.operators:
        weight = inventory[operator.operands[0]]
        if weight.role == "weight":
            outputs, inputs = weight.shape[0], weight.numel // weight.shape[0]
            rows = max(operator.macs // weight.numel, 32)
            a, b = (torch.randint(-128, 128, shape, dtype=torch.int8) for shape in ((rows, inputs), (outputs, inputs)))
            pairs.append((a, b.T))
    return lambda: [torch._int_mm(a, b) for a, b in pairs]
