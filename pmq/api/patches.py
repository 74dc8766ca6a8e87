"""Bits of single tokens under an allocation, chosen anew within the bit operations that it takes."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from pmq.api.allocate import carry_out
from pmq.api.evaluate import Fresh
from pmq.api.points import METRICS
from pmq.api.subject import Subject, divide_images
from pmq.core import Allocation, PmqError
from pmq.core.choice import Assignment, Choice, ComponentChoice
from pmq.core.patches import PatchMap, TokenBits
from pmq.cost import CostModel
from pmq.evaluate import Judge
from pmq.patches import Patchable, TokenErrors, attends_globally, patchable, token_errors
from pmq.patches.allocate import Reallocation, pooled, settle, shrunk
from pmq.quant import Calibration, Quantized, Simulator, realise, restore
from pmq.quant.calibration import calibrate
from pmq.quant.quantizers import Quantizer
from pmq.quant.token_scores import SCORES, Ranker
from pmq.search import Space, read_space
from pmq.sensitivity.base import Probe

KINDS = ("static", "dynamic")
#: images to calibrate on, and others, where an allocation does not tell
CALIB_IMAGES, HELD_OUT = 32, 256
#: how tokens are ranked where nothing is said
SCORE = "class_range"


def check_kind(kind: str, score: str | None = None) -> None:
    """Raise unless there is such a kind of map and such a score."""
    if kind not in KINDS:
        raise PmqError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    if score is not None:
        if kind == "static":
            raise PmqError(f"score {score!r} ranks patches image by image; static maps have none, ask for --kind dynamic")
        SCORES[score]


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
    ) -> None:
        info = allocation.calibration
        calib, probed, judged = divide_images(images, CALIB_IMAGES if info is None else info.n_images, len(images))
        self.allocation = allocation
        self._subject = subject = Subject.of(model, "cpu", images[:1], crop_pct)
        self._fresh = Fresh(subject, calib, seed, None)
        quantized = carry_out(subject, allocation)
        self._assignment = quantized.assignment
        restored = copy.deepcopy(subject.model)
        restore(restored, quantized)
        fitted = calibrate(restored, subject.inventory, calib, seed, 0, allocation.recipe.gradients, subject.classifier)
        self._simulator = realise(copy.deepcopy(subject.model), subject.inventory, replace(quantized, patches=None))
        self._simulator.calibration = _Wider(quantized, fitted)
        self.places = patchable(subject.inventory, quantized.assignment)
        if not self.places:
            raise PmqError("no activation of this allocation has tokens that could have bits of their own")
        self.choices = _choices(subject, allocation, self.places)
        self.probe = Probe(self._simulator, probed, subject.classifier, quantized.assignment, seed=seed)
        plain = Simulator(copy.deepcopy(subject.model), subject.inventory, Calibration())
        self._judge = Judge(plain, judged, subject.classifier)
        self.prefix = int(getattr(subject.model, "num_prefix_tokens", 0))
        self._errors: dict[str | None, dict[str, TokenErrors]] = {}

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
        check_kind(kind)
        by = score if kind == "dynamic" else None
        inventory, assignment = self._subject.inventory, self._assignment
        if by is not None and not attends_globally(inventory):
            raise PmqError("tokens of this model lie in windows, where nothing ranks them; ask for a static map")
        costs = CostModel(inventory)
        own = {name: float(choice.bits) for name, choice in assignment.items()}
        errors, places = self.errors(by), self._ranked(by)
        smooth = {n: (shrunk if kind == "static" else pooled)(e, self.prefix) for n, e in errors.items()}
        for name, place in places.items():
            if place.component.slot in ("k", "v"):  # a token that nobody may attend to makes another model
                smooth[name][0] = np.inf
        rest = costs.bit_ops(assignment) - costs.products(own)
        limit = share * costs.bit_ops(assignment) - rest
        found = settle(smooth, {n: e.bits for n, e in errors.items()}, places, own, costs.products, limit)
        patches = PatchMap(
            kind="static" if by is None else "dynamic", score=by, prefix=self.prefix, components=self._tokens(found)
        )
        return self.better(self.laid_over(patches, {"predicted_error": found.error}))

    def laid_over(self, patches: PatchMap, metrics: dict[str, float | None]) -> Allocation:
        """The allocation with another map; all its tensors stay."""
        budget = self.allocation.budget
        achieved = CostModel(self._subject.inventory).costs(self._assignment, patches)
        if budget is not None:
            budget = budget.model_copy(update={"achieved": achieved})
        changed = self.allocation.model_copy(update={"patches": patches, "budget": budget, "metrics": metrics})
        return changed if self.allocation.tensors is None else changed.with_tensors(self.allocation.tensors)

    def refitted(self, allocation: Allocation) -> Allocation:
        """Carry a map out anew, layer by layer: grids are fitted to the tokens that have them, weights to what they get."""
        recipe = allocation.recipe.model_copy(update={"sequential": True, "reconstruct": 0})
        quantized = self._fresh.quantize(recipe, allocation.assignment, allocation.patches)
        components = {
            name: choice.model_copy(update={"parameters": quantized.parameters.get(name)})
            for name, choice in allocation.components.items()
        }
        changed = {"recipe": recipe, "components": components, "patches": quantized.patches}
        return allocation.model_copy(update=changed).with_tensors(quantized.tensors)

    def better(self, laid: Allocation) -> Allocation:
        """With its tensors as they are or refitted, whichever the judge finds better; with its judgement."""
        candidates = [laid, self.refitted(laid)] if laid.recipe.compensate else [laid]
        judged = [(self.judged(candidate), candidate) for candidate in candidates]
        error = "kl" if self._subject.classifier else "feature_error"
        metrics, best = min(judged, key=lambda pair: pair[0][error] or 0.0)
        changed = best.model_copy(update={"metrics": laid.metrics | {name: metrics[name] for name in METRICS}})
        return changed if best.tensors is None else changed.with_tensors(best.tensors)

    def judged(self, allocation: Allocation) -> dict[str, Any]:
        """Accuracy on the judge's images."""
        subject = self._subject
        module = realise(copy.deepcopy(subject.model), subject.inventory, carry_out(subject, allocation)).model
        return self._judge.judge_model(module).compute()

    def _tokens(self, found: Reallocation) -> dict[str, TokenBits]:
        tokens = {}
        for name, bits in found.bits.items():
            used = {int(b) for b in bits} - {0, self._assignment[name].bits}
            others = {c.bits: self._fitted(name, c) for c in self.choices[name] if c.bits in used}
            tokens[name] = TokenBits(bits="".join(str(b) for b in bits), others=others)
        return tokens

    def _fitted(self, name: str, choice: Choice) -> ComponentChoice:
        quantizer = self._simulator.calibration.quantizer(name, choice)
        parameters = {key: value.reshape(-1).tolist() for key, value in quantizer.parameters.items()}
        return ComponentChoice(**choice.model_dump(), parameters=parameters)


def _choices(subject: Subject, allocation: Allocation, places: dict[str, Patchable]) -> dict[str, list[Choice]]:
    """Of each activation at all bits, as the default space has it; at its own bits as it is allocated."""
    space = Space(read_space("default"), subject.inventory, allocation.recipe.estimator)
    assignment: Assignment = allocation.assignment
    found = {}
    for name in places:
        own = assignment[name]
        at = {choice.bits: choice for choice in space.choices[name]} | {own.bits: own}
        found[name] = [at[bits] for bits in sorted(at) if bits in (2, 3, 4, 5, 6, 8)]
    return found


def reallocate(
    model: nn.Module | str | None,
    allocation: Allocation,
    images: Tensor,
    kind: str = "static",
    *,
    share: float = 1.0,
    score: str = SCORE,
    crop_pct: float | None = None,
    seed: int = 0,
) -> Allocation:
    """Give each patch bits of its own in each layer, within ``share`` of the bit operations that an allocation takes.

    Args:
        model: a timm-built module (left as it is), or timm's name, or ``None`` for the embedded one.
        allocation: with its tensors.
        images: ``(N, C, H, W)``, as :class:`Reallocator` takes them.
        kind: ``static``: bits of each position; ``dynamic``: of each rank, tokens being ranked image by image by ``score``.
        share: of the allocation's bit operations.
        score: see :mod:`pmq.quant.token_scores`.
        crop_pct: how images are cropped, where the model's data config says otherwise.
        seed: of drawn labels.

    Raises:
        PmqError: the allocation is of another model, has no activations with tokens, or ``share`` is below what all tokens
            take at 0 bits; or there are fewer than 8 images.
    """
    return Reallocator(model, allocation, images, crop_pct, seed).allocate(kind, share, score)
