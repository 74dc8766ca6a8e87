"""What the units of work of a search are done with, here and in every worker of a cluster, and the functions of these units."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pmq.core import PmqError
from pmq.core.choice import Choice, Decisions, bits_of
from pmq.core.progress import track
from pmq.core.recipe import Recipe
from pmq.evaluation import Accuracy, Evaluator
from pmq.evaluation.executor import Executor, Failed, Unit
from pmq.metrics import Probe
from pmq.metrics.base import Choices
from pmq.quant import Prepared, Quantized, Simulator, build_quantized_model, quantize

#: allocation around which is measured, seed, number of images, and their number in a forward pass
Settings = tuple[Decisions, int, int, int]


@dataclass
class SearchState:
    """The model with its simulator, and the images.

    Attributes:
        simulator: simulator of the model.
        probe: images that measure sensitivity.
        evaluator: evaluator of candidates; ``None`` where sensitivity alone is measured.
        prepared: the prepared model, which finalists are quantized from; ``None`` where only candidates are simulated.
    """

    simulator: Simulator
    probe: Probe
    evaluator: Evaluator | None = None
    prepared: Prepared | None = None
    _probes: dict[str, Probe] = field(default_factory=dict, init=False, repr=False)

    @property
    def device_type(self) -> str:
        """Type of the device on which the model is."""
        return next(self.simulator.model.parameters()).device.type

    def probe_of(self, settings: Settings) -> Probe:
        """Return the probe with other settings; the last one is kept, with the FP32 outputs that it has computed."""
        base, seed, n_images, batch_size = settings
        key = repr((sorted((name, choice.key()) for name, choice in base.items()), seed, n_images, batch_size))
        if key not in self._probes:
            images = self.probe.images[:n_images]
            self._probes = {key: replace(self.probe, base=base, seed=seed, images=images, batch_size=batch_size)}
        return self._probes[key]


def simulate(state: SearchState, decisions: Decisions, part: int) -> Accuracy:
    """Simulate an allocation on a part of the images."""
    assert state.evaluator is not None
    return state.evaluator.evaluate(decisions, part)


def add_part(state: SearchState, batches: list[tuple[Tensor, Tensor]]) -> None:
    """Add images with their FP32 outputs to those of the evaluator."""
    assert state.evaluator is not None
    state.evaluator = state.evaluator.with_part(batches)


def fit(state: SearchState, name: str, choices: Sequence[Choice]) -> dict[Choice, Any]:
    """Quantize a weight, or fit the quantizer of an activation, at each of some choices."""
    return state.simulator.fit(name, choices)


def use_fits(state: SearchState, fits: Mapping[str, Mapping[Choice, Any]]) -> None:
    """Use what :func:`fit` returned, by component."""
    state.simulator.use(fits)


def call_on_probe(state: SearchState, function: Callable[..., Any], settings: Settings, arguments: tuple[Any, ...]) -> Any:
    """Return ``function(probe, *arguments)`` of a probe with such settings."""
    probe = state.probe_of(settings)
    probe.simulator.apply(probe.base)
    return function(probe, *arguments)


def quantize_finalist(
    state: SearchState, decisions: Decisions, recipe: Recipe, checkpoints: Path | None
) -> tuple[dict[str, float | None], Quantized]:
    """Quantize the prepared model with an allocation by a recipe, and return its metrics on all images and the result."""
    assert state.prepared is not None and state.evaluator is not None
    state.simulator.close()  # whose weights would otherwise be quantized again
    return quantize_and_evaluate(replace(state.prepared, recipe=recipe), decisions, state.evaluator, checkpoints)


def quantize_and_evaluate(
    prepared: Prepared, decisions: Decisions, evaluator: Evaluator, checkpoints: Path | None
) -> tuple[dict[str, float | None], Quantized]:
    """Quantize a prepared model with an allocation, and return its metrics on all images and the result."""
    quantized = quantize(prepared, bits_of(decisions), checkpoints)
    model = build_quantized_model(copy.deepcopy(prepared.model), prepared.inventory, quantized).model
    return evaluator.evaluate_model(model).compute(), quantized


class ProbeSpread:
    """Spreads the parts of a measurement over the workers of an executor; see :class:`pmq.metrics.base.Spread`."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def __call__(
        self, probe: Probe, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """Yield the index of each of ``arguments`` with the function's value.

        Raises:
            PmqError: a part failed on several workers; a table cannot do without it.
        """
        settings: Settings = (probe.base, probe.seed, len(probe.images), probe.batch_size)
        count = len(arguments)
        units = (
            Unit(index, f"sensitivity, part {index + 1} of {count}", call_on_probe, (function, settings, one))
            for index, one in enumerate(arguments)
        )
        for unit, result in self._executor.run(units):
            if isinstance(result, Failed):
                raise PmqError(f"{unit.name} could not be measured: {result.reason}; go on later with `resume`")
            assert isinstance(unit.key, int)
            yield unit.key, result


def spread_state(executor: Executor, state: SearchState, choices: Choices) -> None:
    """Give the state to the workers of an executor, which together quantize all choices once, and let its probe use them.

    Where this process does the work itself, choices are quantized when they are first needed.
    """
    executor.hold(state)
    if not executor.n_workers:
        return
    units = [Unit(name, f"quantizing {name}", fit, (name, tuple(row))) for name, row in choices.items()]
    fits: dict[str, Any] = {}
    for unit, result in track(executor.run(units), "fitting quantizers", len(units)):
        if not isinstance(result, Failed):  # whoever needs it tries again
            fits[str(unit.key)] = result
    executor.share(use_fits, fits)
    use_fits(state, fits)
    state.probe.spread = ProbeSpread(executor)
