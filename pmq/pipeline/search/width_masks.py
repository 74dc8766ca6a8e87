"""Masked weights of narrower units during a search, and the errors that narrower units make."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pmq.core.choice import WidthChoice
from pmq.core.progress import track
from pmq.core.pruning import WidthOptions
from pmq.core.rundir import RunDir
from pmq.metrics import Probe, SensitivityTable
from pmq.optimize import Space
from pmq.pruning.least_squares import STRENGTH
from pmq.quant import MaskedWeight, Prepared, output_error


class WidthMasks:
    """Computes the masked weights of a prepared model at each width; see :class:`pmq.quant.MaskedWeight`.

    Removed channels are zero, and the layer that reads the remaining ones is refitted by least squares.

    Args:
        prepared: the prepared model, before a simulator changes its weights.
        widths: the widths of each unit.
    """

    def __init__(self, prepared: Prepared, widths: list[WidthOptions]) -> None:
        self._moments, self._widths = prepared.calibration.moments, {options.name: options for options in widths}
        # Taken now, because a simulator replaces the weights of the model by those of the last allocation.
        self._weights = {name: parameter.detach() for name, parameter in prepared.model.named_parameters()}
        self._known: dict[tuple[str, str], Mapping[str, MaskedWeight]] = {}

    def __call__(self, unit: str, choice: WidthChoice) -> Mapping[str, MaskedWeight]:
        """Return the masked weights of a unit's layers, by component."""
        key = (unit, choice.label)
        if key not in self._known:
            self._known[key] = self._masks(self._widths[unit], choice)
        return self._known[key]

    @torch.no_grad()
    def _masks(self, options: WidthOptions, choice: WidthChoice) -> dict[str, MaskedWeight]:
        last = options.layers[-1]
        weight = self._weights[f"{last}.weight"]
        kept = torch.tensor(choice.unit.indices, device=weight.device)
        moment = self._moments[last].compute().double()
        square = moment[kept][:, kept]
        ridge = STRENGTH * square.diagonal().mean() * torch.eye(len(kept), dtype=square.dtype, device=square.device)
        target = weight.double() @ moment[:, kept] + weight[:, kept].double() @ ridge
        fitted = torch.linalg.solve(square + ridge, target, left=False).to(weight.dtype)
        masked = {f"{last}.weight": MaskedWeight(choice.label, fitted, columns=kept)}
        if choice.unit.kind == "attention" and len(kept) * choice.unit.heads != choice.unit.size * choice.unit.kept_heads:
            # Zero rows of k remove a channel from the product; q's channel then multiplies the bias, equal for all keys.
            assert options.keys is not None
            layer, places = options.keys
            weight = self._weights[f"{layer}.weight"]
            remaining = torch.ones(len(weight), dtype=torch.bool)
            remaining[torch.tensor(places)[~torch.isin(torch.arange(choice.unit.size), kept.cpu())]] = False
            rows = remaining.nonzero()[:, 0].to(weight.device)
            masked[f"{layer}.weight"] = MaskedWeight(choice.label, weight[rows], rows=rows)
        return masked


@torch.no_grad()
def measure_widths(probe: Probe, space: Space, run: RunDir | None) -> SensitivityTable:
    """Measure the mean error of the output with a single unit narrower, in FP32; comparable with the metric ``measured``."""
    table, simulator = SensitivityTable("widths"), probe.simulator
    reference = probe.reference()
    simulator.apply({})
    device = next(simulator.model.parameters()).device
    inputs, start = [batch.to(device) for batch in probe.images.split(probe.batch_size)], 0
    for options in track(space.widths, "measuring widths"):
        stage = space.inventory[f"{options.layers[-1]}.weight"].stage
        inputs, start = [simulator.run(x, start, stage) for x in inputs], stage
        for unit in options.options[:-1]:
            choice = WidthChoice(unit=unit)
            key = f"width/{options.name}/{choice.label}"
            entry = run.recall(key) if run else None
            if entry is None:
                simulator.set(options.name, choice)
                output = torch.cat([simulator.run(x, start) for x in inputs])
                entry = {"error": float(output_error(reference, output, probe.task).mean())}
                if run:
                    run.record(key, entry)
            table.put(options.name, choice, float(entry["error"]))
        simulator.apply({})
    return table
