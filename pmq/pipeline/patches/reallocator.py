"""Sensitivities of tokens around an allocation, and the maps that follow from them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal

import numpy as np
from torch import Tensor, nn

from pmq.core import Allocation, PmqError
from pmq.core.choice import Assignment, Choice, ComponentChoice
from pmq.core.component import Inventory
from pmq.core.patches import PatchMap, TokenBits
from pmq.core.task import AUTO
from pmq.cost import LatencyTable
from pmq.graph.token_skipping import row_units
from pmq.metrics.base import Probe
from pmq.optimize import Space, read_space
from pmq.patches import BITS, Patchable, TokenErrors, attends_globally, choose_left_out, patchable, token_errors
from pmq.patches.allocate import Reallocation, pooled, settle, shrunk
from pmq.pipeline.allocation import load_quantized
from pmq.pipeline.images import as_images
from pmq.pipeline.patches.map_evaluator import MapEvaluator
from pmq.pipeline.pruned_model import pruned_like
from pmq.pipeline.subject import CALIB_IMAGES, Subject, divide_images
from pmq.quant import Calibration, Quantized, build_quantized_model, restore
from pmq.quant.calibration import calibrate
from pmq.quant.quantizers import Quantizer
from pmq.quant.token_scores import SCORES, Ranker

#: how tokens are ranked where nothing is said
SCORE = "class_range"


def check_kind(kind: str, score: str | None = None) -> Literal["static", "dynamic"]:
    """Raise unless there is such a kind of map and such a score.

    Raises:
        PmqError: there is not.
    """
    if kind != "static" and kind != "dynamic":
        raise PmqError(f"kind {kind!r} is not one of static, dynamic")
    if score is not None:
        if kind == "static":
            raise PmqError(f"score {score!r} ranks patches image by image; static maps have none, ask for --kind dynamic")
        SCORES[score]
    return "dynamic" if kind == "dynamic" else "static"


def check_possible(kind: str, inventory: Inventory, target: str | None) -> None:
    """Raise unless there can be such a map of a model.

    Raises:
        PmqError: there is no such kind, the model ranks no tokens, or the target cannot execute it.
    """
    if check_kind(kind) == "dynamic" and target is not None:
        raise PmqError(f"target {target!r} leaves out tokens at fixed places only; ask for a static map")
    if kind == "dynamic" and not attends_globally(inventory):
        raise PmqError("tokens of this model lie in windows, where nothing ranks them; ask for a static map")


class _Wider(Calibration):
    """Known quantizers at an allocation's own choices, fitted ones at others."""

    def __init__(self, quantized: Quantized, fitted: Calibration) -> None:
        super().__init__(known=quantized.parameters)
        self._assignment, self._fitted = quantized.assignment, fitted

    def quantizer(self, name: str, choice: Choice) -> Quantizer:
        """As :class:`Calibration`'s."""
        own = choice == self._assignment[name]
        return super().quantizer(name, choice) if own else self._fitted.quantizer(name, choice)


class Reallocator:
    """Sensitivities of all tokens around an allocation, from which maps at any budget follow.

    Args:
        model: a timm-built module (left as it is), or timm's name, or ``None`` for the embedded one.
        allocation: with its tensors.
        images: ``(N, C, H, W)``, first those that calibrated; not those of a later evaluation. Of the others some measure
            sensitivity and the rest judge.
        crop_pct: how images are cropped, where the model's data config says otherwise.
        seed: of drawn labels.
        latency: table that predicts the milliseconds of what is found.

    Raises:
        PmqError: the allocation is of another model, no activation of it has tokens, or there are fewer than 8 images.
    """

    def __init__(
        self,
        model: nn.Module | str | None,
        allocation: Allocation,
        images: Tensor,
        crop_pct: float | None = None,
        seed: int = 0,
        latency: LatencyTable | None = None,
    ) -> None:
        images = as_images(images).cpu()
        count = CALIB_IMAGES if allocation.calibration is None else allocation.calibration.n_images
        calib, probed, evaluated = divide_images(images, count, len(images) - count if count < len(images) else len(images))
        self.allocation = allocation
        whole = Subject.of(model, "cpu", calib, crop_pct, allocation.task or AUTO, allocation)
        self._subject = subject = pruned_like(whole, allocation, calib).scaled(calib)
        self.map_evaluator = MapEvaluator(subject, allocation, calib, evaluated, seed, latency)
        quantized = load_quantized(subject, allocation)
        self._assignment = quantized.assignment
        self._simulator = build_quantized_model(copy.deepcopy(subject.model), subject.inventory, replace(quantized, patches=None))
        if not allocation.target:  # whose tokens keep their bits or have none
            self._simulator.calibration = _Wider(quantized, self._recalibrate(quantized, calib, seed))
        #: modules of which the allocation's target can leave out tokens, if it has one: then that is all that is done
        self.units = row_units(subject.model, subject.inventory) if allocation.target else []
        self.places = patchable(subject.inventory, quantized.assignment, bool(self.units))
        if self.units:
            self.places = {name: self.places[name] for unit in self.units for name in unit.activations}
        if not self.places:
            raise PmqError("no activation of this allocation has tokens that could have bits of their own")
        self.choices = _choices(subject, allocation, self.places)
        self.probe = Probe(self._simulator, probed, subject.task, quantized.assignment, seed=seed)
        self.prefix = int(getattr(subject.module, "num_prefix_tokens", 0))
        self._errors: dict[str | None, dict[str, TokenErrors]] = {}

    def _recalibrate(self, quantized: Quantized, calib: Tensor, seed: int) -> Calibration:
        """What activations look like behind the allocation's weights."""
        subject, restored = self._subject, copy.deepcopy(self._subject.model)
        restore(restored, quantized)
        return calibrate(restored, subject.inventory, calib, seed, 0, quantized.recipe.gradients, subject.task)

    def errors(self, score: str | None = None) -> dict[str, TokenErrors]:
        """Of each token by position, or by rank; computed once."""
        if score not in self._errors:
            self._simulator.apply(self._assignment)
            ranker = None if score is None else Ranker(score, self.prefix)
            self._errors[score] = token_errors(self.probe, self._ranked(score), self.choices, ranker)
        return self._errors[score]

    def _ranked(self, score: str | None) -> dict[str, Patchable]:
        """Places whose tokens can be ranked: operands of attention are by what comes into its block."""
        if score is None:
            return self.places
        first = {name: f"{place.component.module}.qkv.input" for name, place in self.places.items()}
        return {n: p for n, p in self.places.items() if p.component.slot == "input" or first[n] in self.places}

    def allocate(self, kind: str = "static", share: float = 1.0, score: str = SCORE) -> Allocation:
        """Give the allocation with a map of its patches, at ``share`` of its own bit operations."""
        check_possible(kind, self._subject.inventory, self.allocation.target)
        if self.units:
            return self._leave_out(share)
        by = score if kind == "dynamic" else None
        errors, places = self.errors(by), self._ranked(by)
        smooth = {n: (shrunk if kind == "static" else pooled)(e, self.prefix) for n, e in errors.items()}
        for name, place in places.items():
            if place.component.slot in ("k", "v"):  # a token that nobody may attend to makes another model
                smooth[name][0] = np.inf
        own, costs = self._means, self.map_evaluator.costs
        taken = costs.bit_ops(self._assignment)
        limit = share * taken - (taken - costs.products(own))
        found = settle(smooth, {n: e.bits for n, e in errors.items()}, places, own, costs.products, limit)
        return self.map_evaluator.better(self.map_evaluator.laid_over(self._map(found, by), {"predicted_error": found.error}))

    @property
    def _means(self) -> dict[str, float]:
        return {name: float(choice.bits) for name, choice in self._assignment.items()}

    def _leave_out(self, share: float) -> Allocation:
        errors = {name: replace(e, error=shrunk(e, self.prefix)) for name, e in self.errors().items()}
        saved = (1 - share) * self.map_evaluator.costs.bit_ops(self._assignment)
        found = choose_left_out(errors, self.units, self.places, self._means, saved)
        return self.map_evaluator.evaluated(
            self.map_evaluator.laid_over(self._map(found, None), {"predicted_error": found.error})
        )

    def _map(self, found: Reallocation, score: str | None) -> PatchMap:
        kind: Literal["static", "dynamic"] = "static" if score is None else "dynamic"
        return PatchMap(kind=kind, score=score, prefix=self.prefix, components=self._tokens(found))

    def _tokens(self, found: Reallocation) -> dict[str, TokenBits]:
        tokens = {}
        for name, bits in found.bits.items():
            used = {int(b) for b in bits} - {0, self._assignment[name].bits}
            others = {c.bits: self._fitted(name, c) for c in self.choices[name] if c.bits in used}
            tokens[name] = TokenBits.of(map(int, bits), others)
        return tokens

    def _fitted(self, name: str, choice: Choice) -> ComponentChoice:
        quantizer = self._simulator.calibration.quantizer(name, choice)
        return ComponentChoice(**choice.model_dump(), parameters=quantizer.numbers)


def _choices(subject: Subject, allocation: Allocation, places: dict[str, Patchable]) -> dict[str, list[Choice]]:
    """Of each activation at all bits, as the default space has it; at its own bits as it is allocated."""
    space = Space(read_space("default"), subject.inventory, allocation.recipe.estimator)
    assignment: Assignment = allocation.assignment
    found = {}
    for name in places:
        own = assignment[name]
        if allocation.target:
            found[name] = [own]
            continue
        at = {choice.bits: choice for choice in space.choices[name]} | {own.bits: own}
        found[name] = [at[bits] for bits in sorted(at) if bits in BITS]
    return found
