"""The choice of how many tokens to merge behind each block, together with the bits that the budget then leaves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pmq.core import Budget, Limits, PmqError
from pmq.core.merging import MergingPlan
from pmq.core.progress import message, track
from pmq.core.recipe import Recipe, find_recipe
from pmq.core.rundir import RunDir
from pmq.cost import LatencyTable
from pmq.graph.token_merging import merge_tokens, mergeable_blocks, prefix_tokens
from pmq.metrics import Probe, SensitivityTable
from pmq.optimize import Space, Tables, solver_for
from pmq.optimize.merging import propose_mergings
from pmq.pipeline.measure import measure
from pmq.pipeline.search.budget import resolve_budget
from pmq.pipeline.search.options import RunOptions, SearchOptions
from pmq.pipeline.subject import Subject
from pmq.quant import output_error, prepare
from pmq.runtimes import TARGETS
from pmq.runtimes.merge_latency import relative_latency

#: shares of the patches that may be merged behind one block, and number of mergings that are compared with their bits
SHARES, PROPOSALS = (1 / 24, 1 / 12, 1 / 6, 1 / 3, 1 / 2), 8
#: most images that measure the errors of merging and of bits
IMAGES = 64


@dataclass(frozen=True)
class Merged:
    """The chosen merging.

    Attributes:
        subject: the model that merges tokens, or the model itself where merging does not pay.
        space: the search space laid over it, with its milliseconds.
        limits: cost limits of the budget.
    """

    subject: Subject
    space: Space
    limits: Limits


class MergingChoice:
    """Compares mergings by the sum of their error and of the least error of bits within what the budget leaves.

    Args:
        subject: the model.
        space: the search space laid over it; widths, if any, are searched together with bits once tokens are merged.
        recipe: recipe of the search.
        calibration, probed: images ``(N, C, H, W)`` that calibrate, and that measure errors.
        options, run_options: options of the search.

    Raises:
        PmqError: tokens of this model cannot be merged.
    """

    def __init__(
        self,
        subject: Subject,
        space: Space,
        recipe: Recipe,
        calibration: Tensor,
        probed: Tensor,
        options: SearchOptions,
        run_options: RunOptions,
    ) -> None:
        self._subject, self._recipe, self._metric, self._seed = subject, recipe, options.metric, run_options.seed
        self._space = Space(space.file, subject.inventory, recipe.estimator, space.latency)
        self._run: RunDir | None = None
        self._calibration, self._images, self._batch_size = calibration, probed[:IMAGES], run_options.batch_size
        self._blocks, self._prefix = mergeable_blocks(subject.model), prefix_tokens(subject.model)
        self._n_tokens = next(iter(self._blocks.values())).n_tokens
        merge_tokens(subject.model, {next(iter(self._blocks)): 1}, self._prefix)  # so that a refusal precedes all measurements

    def choose(self, budget: Budget, reserved: int, run: RunDir | None) -> Merged:
        """Return the merging with the least predicted error within a budget, after ``reserved`` bytes are set aside.

        The journal of ``run`` stores all measurements, so that a resumed search chooses the same.

        Raises:
            PmqError: the budget is below the cheapest point of every merging.
        """
        self._run = run
        subjects = self.proposed()
        latency = self._space.latency
        ratios = [1.0] * len(subjects) if latency is None else self._recorded("ratios", lambda: self._ratios(latency, subjects))
        spaces = [self._space_of(each, ratio) for each, ratio in zip(subjects, ratios, strict=True)]
        losses = self._recorded("losses", lambda: [self._error(each) for each in track(subjects, "measuring merged models")])
        of_bits, compared = self._bits(), list[tuple[float, int, Limits]]()
        refusal: PmqError | None = None
        for index, space in enumerate(spaces):
            try:
                limits = resolve_budget(budget, space, reserved, self._space)
            except PmqError as error:
                refusal = error
                continue
            tables = Tables.build(space, of_bits)
            genome = solver_for(tables).solve(limits)
            if genome is not None:
                compared.append((losses[index] + float(tables.evaluate(genome[None])[0, 0]), index, limits))
        if not compared:
            raise refusal or PmqError(f"no merging of tokens meets budget {budget.text!r}; raise it")
        predicted, index, limits = min(compared, key=lambda each: each[0])
        plan = subjects[index].merging
        name = "that of no tokens" if plan is None else plan.label
        message(
            f"of {len(subjects)} mergings, {name} leaves the least predicted error: {predicted:.3g}, of which "
            f"{losses[index]:.3g} from merging"
        )
        return Merged(subjects[index], spaces[index], limits)

    def proposed(self, count: int = PROPOSALS) -> list[Subject]:
        """Return the model itself, and models that merge more and more tokens where that costs least error."""
        proposals = propose_mergings(self._recorded("errors", self._errors), self._n_tokens, self._prefix, count)
        return [self._merged(proposal) for proposal in proposals]

    def _recorded(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return what the journal holds under a name, or compute and record it."""
        entry = None if self._run is None else self._run.recall(f"merging/{name}")
        if entry is None:
            value = compute()
            entry = {"value": [[k, [*v.items()]] for k, v in value.items()] if isinstance(value, dict) else value}
            if self._run is not None:
                self._run.record(f"merging/{name}", entry)
        value = entry["value"]
        return {k: {int(c): e for c, e in row} for k, row in value} if name == "errors" else value

    def _merged(self, merged: dict[str, int]) -> Subject:
        return self._subject.merged(MergingPlan(tokens=self._n_tokens, prefix=self._prefix, merged=merged) if merged else None)

    @torch.no_grad()
    def _errors(self) -> dict[str, dict[int, float]]:
        """Return the error of each number of tokens merged behind each block alone, in FP32."""
        model, task = self._subject.model, self._subject.task
        patches = self._n_tokens - self._prefix
        counts = sorted({max(1, int(share * patches)) for share in SHARES})
        inputs, start = [x.to(self._device) for x in self._images.split(self._batch_size)], 0
        reference = torch.cat([model(x) for x in inputs])
        errors = dict[str, dict[int, float]]()
        for name, block in track(list(self._blocks.items()), "measuring merged tokens"):
            inputs, start = [model.run(x, start, block.stage) for x in inputs], block.stage
            errors[name] = {}
            for count in counts:
                merged = merge_tokens(model, {name: count}, self._prefix)
                outputs = torch.cat([merged.run(x, start) for x in inputs])
                errors[name][count] = float(output_error(reference, outputs, task).mean())
        return errors

    @property
    def _device(self) -> torch.device:
        return next(self._subject.module.parameters()).device

    @torch.no_grad()
    def _error(self, merged: Subject) -> float:
        total = 0.0
        for x in self._images.to(self._device).split(self._batch_size):
            total += float(output_error(self._subject.model(x), merged.model(x), self._subject.task).sum())
        return total / len(self._images)

    def _bits(self) -> SensitivityTable:
        """Return the sensitivities of all choices of bits, in the model with all tokens."""
        plain = find_recipe("mse").model_copy(update={"estimator": self._recipe.estimator, "gradients": self._recipe.gradients})
        subject, images = self._subject, self._images
        model = copy.deepcopy(subject.model)
        prepared = prepare(model, subject.inventory, self._calibration, plain, self._seed, len(images), subject.task)
        with prepared.simulator(None) as simulator:
            probe = Probe(simulator, images, subject.task, {}, self._batch_size, self._seed)
            return measure(probe, self._space.choices, self._metric, self._run, "merging/")

    def _ratios(self, latency: LatencyTable, subjects: list[Subject]) -> list[float]:
        """Return the measured milliseconds of each model relative to the first, all layers in the fastest mode of most."""
        models = {str(i): (copy.deepcopy(each.model).cpu(), each.inventory) for i, each in enumerate(subjects)}
        size = self._subject.info.data_config["input_size"]
        target = TARGETS[latency.target]
        measured = relative_latency(target, models, self._space.modes, latency.fastest_key, size, latency.threads)
        return list(measured.values())

    def _space_of(self, merged: Subject, ratio: float) -> Space:
        latency = self._space.latency
        if latency is not None and merged.merging is not None:
            macs = {op.name: op.macs for op in self._subject.inventory.operators}
            shares = {op.name: op.macs / macs[op.name] for op in merged.inventory.operators if op.name in latency.layers}
            key = latency.fastest_key
            latency = latency.with_fewer_tokens(shares, key, ratio * latency.whole_ms(dict.fromkeys(latency.layers, key)))
        return Space(self._space.file, merged.inventory, self._recipe.estimator, latency)
