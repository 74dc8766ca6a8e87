"""Activations whose tokens have bits of their own (PMQ, arXiv 2305.06559: patch-wise mixed precision)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pmq.core.component import Component
from pmq.core.patches import PatchMap
from pmq.quant.calibration import Calibration
from pmq.quant.instrument import TapFunction
from pmq.quant.quantizers import Quantizer
from pmq.quant.simulator import Simulator
from pmq.quant.token_scores import Ranker


def by_token(component: Component, x: Tensor, tokens: int) -> Tensor:
    """Lay an activation out so that its last axis but one is its image's ``tokens``: windows and rows side by side."""
    if component.slot in ("q", "k", "v", "softmax") and x.ndim == 4:
        return x
    return x.reshape(-1, tokens, x.shape[-1])


class TokenQuantizer:
    """Quantizes tokens at bits of their own; what has none becomes zero.

    Args:
        component: the activation.
        quantizers: by bits.
        bits: of each token ``(T,)``, or of each rank if there is a ``ranker``.
    """

    def __init__(
        self, component: Component, quantizers: Mapping[int, Quantizer], bits: Tensor, ranker: Ranker | None = None
    ) -> None:
        self._component, self._quantizers, self._bits, self._ranker = component, quantizers, bits, ranker
        self._groups = {int(b): (bits == b).nonzero()[:, 0] for b in bits.unique()}
        self._owner = component.module.rpartition(".")[0] if component.slot == "input" else component.module

    def __call__(self, x: Tensor) -> Tensor:
        """Quantize and dequantize."""
        tokens = by_token(self._component, x, len(self._bits))
        y = self._static(tokens) if self._ranker is None else self._dynamic(tokens, self._ranker)
        return y.reshape(x.shape)

    def _static(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for bits, places in self._groups.items():
            if bits:
                y[..., places, :] = self._quantizers[bits](x[..., places, :])
        return y

    def _dynamic(self, x: Tensor, ranker: Ranker) -> Tensor:
        order = ranker.order(self._owner, x) if self._component.slot == "input" else ranker.known(self._owner)
        bits = torch.empty_like(order).scatter_(1, order, self._bits.expand_as(order))[..., None]  # of each token
        bits = bits if x.ndim == 3 else bits[:, None]
        y = torch.zeros_like(x)
        for width in self._groups:
            if width:
                y = torch.where(bits == width, self._quantizers[width](x), y)
        return y


def install(simulator: Simulator, patches: PatchMap) -> None:
    """Make a simulator compute with the bits of single tokens; those of its allocation hold for all else."""
    ranker = None if patches.score is None else Ranker(patches.score, patches.prefix)
    own: dict[str, TapFunction] = {}
    for name, tokens in patches.components.items():
        component = simulator.inventory[name]
        known = {b: Calibration(known={name: c.parameters or {}}).quantizer(name, c.choice) for b, c in tokens.others.items()}
        quantizers = {b: simulator.spread(name, q) for b, q in known.items()}
        choice = simulator.current(name)
        if not choice.is_float:
            quantizers[choice.bits] = simulator.quantizer(component, choice)
        own[name] = TokenQuantizer(component, quantizers, torch.from_numpy(tokens.array), ranker)
    if ranker is not None:
        own |= _watched(simulator, own, ranker)
        simulator.model.register_forward_pre_hook(lambda module, args: ranker.forget())
    for name, function in own.items():
        simulator.instrument.set_activation(name, function)


def _watched(simulator: Simulator, own: Mapping[str, TapFunction], ranker: Ranker) -> dict[str, TapFunction]:
    """Functions of every softmax that also show it to the ranker."""

    def watching(inner: Any) -> TapFunction:
        def function(x: Tensor) -> Tensor:
            y: Tensor = x if inner is None else inner(x)
            ranker.saw(y)
            return y

        return function

    found = {}
    for component in simulator.inventory:
        if component.slot == "softmax":
            choice = simulator.current(component.name)
            plain = None if choice.is_float else simulator.quantizer(component, choice)
            found[component.name] = watching(own.get(component.name, plain))
    return found
