"""Widths while a search runs: what they remove is zero, what reads the rest fitted anew; and the errors that this makes."""

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
    """Says what is left of a prepared model's weights at each width: see :class:`pmq.quant.MaskedWeight`.

    Args:
        prepared: whose model no simulator is on yet.
        widths: what may be kept.
    """

    def __init__(self, prepared: Prepared, widths: list[WidthOptions]) -> None:
        self._moments, self._widths = prepared.calibration.moments, {options.name: options for options in widths}
        # Taken now: while a simulator is on the model, it holds the weights of whatever was simulated last.
        self._weights = {name: parameter.detach() for name, parameter in prepared.model.named_parameters()}
        self._known: dict[tuple[str, str], Mapping[str, MaskedWeight]] = {}

    def __call__(self, unit: str, choice: WidthChoice) -> Mapping[str, MaskedWeight]:
        """Give them by component."""
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
        wanted = weight.double() @ moment[:, kept] + weight[:, kept].double() @ ridge
        fitted = torch.linalg.solve(square + ridge, wanted, left=False).to(weight.dtype)
        found = {f"{last}.weight": MaskedWeight(choice.label, fitted, columns=kept)}
        if choice.unit.kind == "attention" and len(kept) * choice.unit.heads != choice.unit.size * choice.unit.kept_heads:
            # Without k's rows products lose these channels; q's are multiplied by what is the same for all keys then.
            assert options.keys is not None
            layer, places = options.keys
            made = self._weights[f"{layer}.weight"]
            left = torch.ones(len(made), dtype=torch.bool)
            left[torch.tensor(places)[~torch.isin(torch.arange(choice.unit.size), kept.cpu())]] = False
            rows = left.nonzero()[:, 0].to(weight.device)
            found[f"{layer}.weight"] = MaskedWeight(choice.label, made[rows], rows=rows)
        return found


@torch.no_grad()
def measure_widths(probe: Probe, space: Space, run: RunDir | None) -> SensitivityTable:
    """Mean error of the output with a single unit narrower, in FP32: in the same terms as ``measured`` errors of bits."""
    table, simulator = SensitivityTable("widths"), probe.simulator
    reference = probe.reference()
    simulator.apply({})
    device = next(simulator.model.parameters()).device
    inputs, at = [batch.to(device) for batch in probe.images.split(probe.batch_size)], 0
    for options in track(space.widths, "measuring widths"):
        stage = space.inventory[f"{options.layers[-1]}.weight"].stage
        inputs, at = [simulator.run(x, at, stage) for x in inputs], stage
        for unit in options.options[:-1]:
            choice = WidthChoice(unit=unit)
            key = f"width/{options.name}/{choice.label}"
            entry = run.recall(key) if run else None
            if entry is None:
                simulator.set(options.name, choice)
                output = torch.cat([simulator.run(x, at) for x in inputs])
                entry = {"error": float(output_error(reference, output, probe.task).mean())}
                if run:
                    run.record(key, entry)
            table.put(options.name, choice, float(entry["error"]))
        simulator.apply({})
    return table
