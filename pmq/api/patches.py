"""Bits of single tokens under an allocation, chosen anew within the bit operations that it takes."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn

from pmq.api.allocate import carry_out
from pmq.api.subject import Subject
from pmq.core import Allocation, PmqError
from pmq.core.choice import Assignment, Choice, ComponentChoice
from pmq.core.patches import PatchMap, TokenBits
from pmq.cost import CostModel
from pmq.patches import Patchable, TokenErrors, attends_globally, patchable, token_errors
from pmq.patches.allocate import Reallocation, pooled, shrunk, solve
from pmq.quant import Calibration, Quantized, realise, restore
from pmq.quant.calibration import calibrate
from pmq.quant.quantizers import Quantizer
from pmq.quant.token_scores import SCORES, Ranker
from pmq.search import Space, read_space
from pmq.sensitivity.base import Probe

KINDS = ("static", "dynamic")
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
        images: ``(N, C, H, W)`` that calibrated, or others; not those of a later evaluation.
        crop_pct: how images are cropped, where the model's data config says otherwise.
        seed: of drawn labels.

    Raises:
        PmqError: the allocation is of another model, or no activation of it has tokens.
    """

    def __init__(
        self,
        model: nn.Module | str | None,
        allocation: Allocation,
        images: Tensor,
        crop_pct: float | None = None,
        seed: int = 0,
    ) -> None:
        self.allocation = allocation
        subject = Subject.of(model, "cpu", images[:1], crop_pct)
        quantized = carry_out(subject, allocation)
        self._inventory, self._assignment = subject.inventory, quantized.assignment
        restored = copy.deepcopy(subject.model)
        restore(restored, quantized)
        fitted = calibrate(restored, subject.inventory, images, seed, 0, allocation.recipe.gradients, subject.classifier)
        plain = replace(quantized, patches=None)
        self._simulator = realise(copy.deepcopy(subject.model), subject.inventory, plain)
        self._simulator.calibration = _Wider(quantized, fitted)
        self.places = patchable(subject.inventory, quantized.assignment)
        if not self.places:
            raise PmqError("no activation of this allocation has tokens that could have bits of their own")
        self.choices = _choices(subject, allocation, self.places)
        self.probe = Probe(self._simulator, images, subject.classifier, quantized.assignment, seed=seed)
        self.prefix = int(getattr(subject.model, "num_prefix_tokens", 0))
        self._errors: dict[str | None, dict[str, TokenErrors]] = {}

    def errors(self, score: str | None = None) -> dict[str, TokenErrors]:
        """Of each token by position, or by rank; computed once."""
        if score not in self._errors:
            self._simulator.apply(self._assignment)
            ranker = None if score is None else Ranker(score, self.prefix)
            self._errors[score] = token_errors(self.probe, self.places, self.choices, ranker)
        return self._errors[score]

    def allocate(self, kind: str = "static", share: float = 1.0, score: str = SCORE) -> Allocation:
        """Give the allocation with a map of its patches, at ``share`` of its own bit operations."""
        check_kind(kind)
        by = score if kind == "dynamic" else None
        if by is not None and not attends_globally(self._inventory):
            raise PmqError("tokens of this model lie in windows, where nothing ranks them; ask for a static map")
        costs = CostModel(self._inventory)
        before = costs.bit_ops(self._assignment)
        own = {name: float(choice.bits) for name, choice in self._assignment.items()}
        prices = {name: place.ops_of_a_bit(own) for name, place in self.places.items()}
        elsewhere = before - sum(prices[name] * place.tokens * own[name] for name, place in self.places.items())
        errors = self.errors(by)
        smooth = {n: (shrunk if kind == "static" else pooled)(e, self.prefix) for n, e in errors.items()}
        found = solve(smooth, {n: e.bits for n, e in errors.items()}, prices, share * before - elsewhere)
        return self._with_map(found, self._map(by, found))

    def _map(self, score: str | None, found: Reallocation) -> PatchMap:
        kind: Literal["static", "dynamic"] = "static" if score is None else "dynamic"
        return PatchMap(kind=kind, score=score, prefix=self.prefix, components=self._tokens(found))

    def _with_map(self, found: Reallocation, patches: PatchMap) -> Allocation:
        budget = self.allocation.budget
        achieved = CostModel(self._inventory).costs(self._assignment, patches)
        if budget is not None:
            budget = budget.model_copy(update={"achieved": achieved})
        update = {"patches": patches, "budget": budget, "metrics": {"predicted_error": found.error}}
        changed = self.allocation.model_copy(update=update)
        return changed if self.allocation.tensors is None else changed.with_tensors(self.allocation.tensors)

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
        images: ``(N, C, H, W)`` to estimate sensitivities on.
        kind: ``static``: bits of each position; ``dynamic``: of each rank, tokens being ranked image by image by ``score``.
        share: of the allocation's bit operations.
        score: see :mod:`pmq.quant.token_scores`.
        crop_pct: how images are cropped, where the model's data config says otherwise.
        seed: of drawn labels.

    Raises:
        PmqError: the allocation is of another model, has no activations with tokens, or ``share`` is below what all tokens
            take at 0 bits.
    """
    return Reallocator(model, allocation, images, crop_pct, seed).allocate(kind, share, score)
