"""Sensitivities of tokens around an allocation, and the maps of patches chosen by them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal

import numpy as np
from torch import Tensor, nn

from pmq.core import Allocation, PmqError
from pmq.core.choice import BY_TOKEN, Assignment, Choice, ComponentChoice
from pmq.core.patches import PatchMap, TokenBits
from pmq.core.task import AUTO
from pmq.cost import LatencyTable
from pmq.graph.token_skipping import tokenwise_units
from pmq.metrics.base import Probe
from pmq.optimize import Space, read_space
from pmq.patches import BITS, Patchable, TokenErrors, choose_left_out, patchable, token_errors
from pmq.patches.allocate import Reallocation, pooled, settle, shrunk
from pmq.pipeline.allocation import load_quantized
from pmq.pipeline.image_split import CALIB_IMAGES, divide_images
from pmq.pipeline.images import as_images
from pmq.pipeline.patches.kinds import SCORE, check_possible
from pmq.pipeline.patches.map_evaluator import MapEvaluator
from pmq.pipeline.pruned_model import shaped_like
from pmq.pipeline.subject import Subject
from pmq.quant import Calibration, Quantized, build_quantized_model, restore
from pmq.quant.calibration import calibrate
from pmq.quant.quantizers import Quantizer
from pmq.quant.token_scores import Ranker


class _ExtendedCalibration(Calibration):
    """Calibration with an allocation's own quantizers at its choices, and newly fitted ones at all other choices."""

    def __init__(self, quantized: Quantized, fitted: Calibration) -> None:
        super().__init__(known=quantized.parameters)
        self._assignment, self._fitted = quantized.assignment, fitted

    def quantizer(self, name: str, choice: Choice) -> Quantizer:
        """Return the quantizer of an activation at a choice."""
        allocated = choice == self._assignment[name]
        return super().quantizer(name, choice) if allocated else self._fitted.quantizer(name, choice)


class Reallocator:
    """Measures the sensitivities of all tokens around an allocation, and allocates their bits at any budget.

    Args:
        model: a module built by timm (left unchanged), a timm name, or ``None`` for the embedded model.
        allocation: the allocation with its tensors.
        images: images ``(N, C, H, W)``: first the calibration images, then images of which a third measures sensitivity and
            the rest evaluates maps. They must not be the images of a later evaluation.
        crop_pct: crop of the images, where it differs from the model's data config.
        seed: seed of drawn labels.
        latency: latency table that predicts the milliseconds of a map.

    Raises:
        PmqError: the allocation is of another model, none of its activations has tokens, or there are fewer than 8 images.
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
        unpruned = Subject.of(model, "cpu", calib, crop_pct, allocation.task or AUTO, allocation)
        self._subject = subject = shaped_like(unpruned, allocation, calib).scaled(calib)
        self.map_evaluator = MapEvaluator(subject, allocation, calib, evaluated, seed, latency)
        quantized = load_quantized(subject, allocation)
        self._assignment = quantized.assignment
        self._simulator = build_quantized_model(copy.deepcopy(subject.model), subject.inventory, replace(quantized, patches=None))
        if not allocation.target:  # on a target, tokens keep their bits or are skipped
            self._simulator.use_calibration(_ExtendedCalibration(quantized, self._recalibrate(quantized, calib, seed)))
        #: modules whose tokens the allocation's target can skip; where there are any, a map only skips tokens
        self.units = tokenwise_units(subject.model, subject.inventory) if allocation.target else []
        self.places = patchable(subject.inventory, quantized.assignment, bool(self.units))
        if self.units:
            self.places = {name: self.places[name] for unit in self.units for name in unit.activations}
        if not self.places:
            raise PmqError("no activation of this allocation has tokens that can have bits of their own")
        self.choices = _choices(subject, allocation, self.places)
        self.probe = Probe(self._simulator, probed, subject.task, quantized.assignment, seed=seed)
        self.prefix = int(getattr(subject.module, "num_prefix_tokens", 0))
        self._errors: dict[str | None, dict[str, TokenErrors]] = {}

    def _recalibrate(self, quantized: Quantized, calib: Tensor, seed: int) -> Calibration:
        """Calibrate again on the model with the allocation's quantized weights."""
        subject, restored = self._subject, copy.deepcopy(self._subject.model)
        restore(restored, quantized)
        return calibrate(restored, subject.inventory, calib, seed, 0, quantized.recipe.gradients, subject.task)

    def errors(self, score: str | None = None) -> dict[str, TokenErrors]:
        """Return the error of each token at each choice, by position, or by rank where there is a score; computed once."""
        if score not in self._errors:
            self._simulator.apply(self._assignment)
            ranker = None if score is None else Ranker(score, self.prefix)
            self._errors[score] = token_errors(self.probe, self._ranked(score), self.choices, ranker)
        return self._errors[score]

    def _ranked(self, score: str | None) -> dict[str, Patchable]:
        """Return the places whose tokens a score can rank; operands of attention are ranked by the input of their block."""
        if score is None:
            return self.places
        first = {name: f"{place.component.module}.qkv.input" for name, place in self.places.items()}
        return {n: p for n, p in self.places.items() if p.component.slot == "input" or first[n] in self.places}

    def allocate(self, kind: str = "static", share: float = 1.0, score: str = SCORE) -> Allocation:
        """Return the allocation with a map of patches that uses ``share`` of its bit operations."""
        check_possible(kind, self._subject.inventory, self.allocation.target)
        if self.units:
            return self._skip_tokens(share)
        by = score if kind == "dynamic" else None
        errors, places = self.errors(by), self._ranked(by)
        smooth = {n: (shrunk if kind == "static" else pooled)(e, self.prefix) for n, e in errors.items()}
        for name, place in places.items():
            if place.component.slot in ("k", "v"):  # without its keys or values a token cannot be attended to
                smooth[name][0] = np.inf
        means, costs = self._means, self.map_evaluator.costs
        bit_ops = costs.bit_ops(self._assignment)
        limit = share * bit_ops - (bit_ops - costs.products(means))
        reallocation = settle(smooth, {n: e.bits for n, e in errors.items()}, places, means, costs.products, limit)
        with_map = self.map_evaluator.with_map(self._map(reallocation, by), {"predicted_error": reallocation.error})
        return self.map_evaluator.better(with_map)

    @property
    def _means(self) -> dict[str, float]:
        return {name: float(choice.bits) for name, choice in self._assignment.items()}

    def _skip_tokens(self, share: float) -> Allocation:
        errors = {name: replace(e, error=shrunk(e, self.prefix)) for name, e in self.errors().items()}
        saved = (1 - share) * self.map_evaluator.costs.bit_ops(self._assignment)
        reallocation = choose_left_out(errors, self.units, self.places, self._means, saved)
        with_map = self.map_evaluator.with_map(self._map(reallocation, None), {"predicted_error": reallocation.error})
        return self.map_evaluator.evaluated(with_map)

    def _map(self, reallocation: Reallocation, score: str | None) -> PatchMap:
        kind: Literal["static", "dynamic"] = "static" if score is None else "dynamic"
        return PatchMap(kind=kind, score=score, prefix=self.prefix, components=self._tokens(reallocation))

    def _tokens(self, reallocation: Reallocation) -> dict[str, TokenBits]:
        tokens = {}
        for name, bits in reallocation.bits.items():
            used = {int(b) for b in bits} - {0, self._assignment[name].bits}
            others = {c.bits: self._fitted(name, c) for c in self.choices[name] if c.bits in used}
            tokens[name] = TokenBits.of(map(int, bits), others)
        return tokens

    def _fitted(self, name: str, choice: Choice) -> ComponentChoice:
        quantizer = self._simulator.calibration.quantizer(name, choice)
        return ComponentChoice(**choice.model_dump(), parameters=quantizer.numbers)


def _choices(subject: Subject, allocation: Allocation, places: dict[str, Patchable]) -> dict[str, list[Choice]]:
    """Return the choices of each activation: those of the default space, and at its allocated bits the allocated choice.

    Levels of other bits grow with the token where the allocated ones do, and are static elsewhere.
    """
    space = Space(read_space("default"), subject.inventory, allocation.recipe.estimator)
    static = [space.uniform(bits, bits) for bits in BITS]
    assignment: Assignment = allocation.assignment
    choices = {}
    for name in places:
        allocated = assignment[name]
        if allocation.target:
            choices[name] = [allocated]
            continue
        of_space = space.choices[name] if allocated.quantizer in BY_TOKEN else [uniform[name] for uniform in static]
        by_bits = {choice.bits: choice for choice in of_space} | {allocated.bits: allocated}
        choices[name] = [by_bits[bits] for bits in sorted(by_bits) if bits in BITS]
    return choices
