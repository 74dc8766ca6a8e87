"""Activations whose tokens have individual bit-widths (PMQ, arXiv 2305.06559: patch-wise mixed precision)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pmq.core.choice import FLOAT
from pmq.core.component import Component
from pmq.core.patches import PatchMap
from pmq.graph import TapFunction
from pmq.quant.calibration import Calibration
from pmq.quant.quantizers import Quantizer
from pmq.quant.simulator import Simulator
from pmq.quant.token_scores import Ranker


def by_token(component: Component, x: Tensor, tokens: int) -> Tensor:
    """Reshape an activation so that its second-to-last axis has all ``tokens`` of an image, across windows and rows."""
    if component.slot in ("q", "k", "v", "softmax") and x.ndim == 4:
        return x
    return x.reshape(-1, tokens, x.shape[-1])


class TokenQuantizer:
    """Quantizer of an activation at an individual bit-width for each token; tokens with 0 bits become zero.

    Args:
        component: activation.
        quantizers: quantizers by bit-width.
        bits: bit-width of each token ``(T,)``, or of each rank if there is a ``ranker``.
        ranker: ranker of the tokens of each image, or ``None`` for bit-widths by position.
    """

    def __init__(
        self, component: Component, quantizers: Mapping[int, Quantizer], bits: Tensor, ranker: Ranker | None = None
    ) -> None:
        self._component, self._quantizers, self._bits, self._ranker = component, quantizers, bits, ranker
        self._groups = {int(b): (bits == b).nonzero()[:, 0] for b in bits.unique()}
        self._last: Tensor | None = None
        self._owner = component.module.rpartition(".")[0] if component.slot == "input" else component.module

    def __call__(self, x: Tensor) -> Tensor:
        """Quantize and dequantize each token at its bit-width."""
        tokens = by_token(self._component, x, len(self._bits))
        y = torch.zeros_like(tokens)
        if self._ranker is None:
            for width, positions in self._groups.items():
                if width:
                    y[..., positions, :] = self._at(width, tokens[..., positions, :])
        else:
            bits = self._ranked(tokens, self._ranker)
            for width in self._groups:
                if width:
                    y = torch.where(bits == width, self._at(width, tokens), y)
        return y.reshape(x.shape)

    def _at(self, width: int, x: Tensor) -> Tensor:
        """Quantize and dequantize ``x`` at one bit-width."""
        return x if width == FLOAT.bits else self._quantizers[width](x)

    def bits_of(self, x: Tensor) -> Tensor:
        """Return the bit-width of each value of ``x``, in the shape of ``x``."""
        tokens = by_token(self._component, x, len(self._bits))
        bits = self._bits[:, None] if self._ranker is None else self._ranked(tokens, self._ranker)
        return bits.expand_as(tokens).reshape(x.shape)

    def token_bits(self, n_images: int) -> Tensor:
        """Return the bit-width of each token ``(N, T)`` in the last forward pass, which had ``n_images``."""
        return self._bits.expand(n_images, -1) if self._last is None else self._last

    def _ranked(self, x: Tensor, ranker: Ranker) -> Tensor:
        """Return the bit-width of each token according to its rank, ``(B, T, 1)`` or ``(B, 1, T, 1)``."""
        order = ranker.order(self._owner, x) if self._component.slot == "input" else ranker.known(self._owner)
        self._last = torch.empty_like(order).scatter_(1, order, self._bits.expand_as(order))
        return self._last[..., None] if x.ndim == 3 else self._last[:, None, :, None]


class TokenTaps:
    """Tap functions of a simulator's activations for an optional map of patches."""

    def __init__(self, simulator: Simulator, patches: PatchMap | None) -> None:
        self._simulator = simulator
        self.tokens = {} if patches is None else patches.components
        self.quantizers: dict[str, TokenQuantizer] = {}
        self.ranker = None if patches is None or patches.score is None else Ranker(patches.score, patches.prefix)

    def quantizer(self, component: Component, quantizers: Mapping[int, Quantizer]) -> TokenQuantizer:
        """Build the token quantizer of an activation in the map, from quantizers by bit-width that are common to all tokens."""
        spread = {bits: self._simulator.spread(component.name, q) for bits, q in quantizers.items()}
        bits = torch.from_numpy(self.tokens[component.name].array)
        self.quantizers[component.name] = token_quantizer = TokenQuantizer(component, spread, bits, self.ranker)
        return token_quantizer

    def set(self, component: Component, function: TapFunction | None) -> None:
        """Pass an activation through ``function``, and the result to the ranker if the activation is a softmax."""
        ranker = self.ranker
        if ranker is None or component.slot != "softmax":
            self._simulator.set_activation(component.name, function)
            return

        def observed(x: Tensor) -> Tensor:
            y = x if function is None else function(x)
            ranker.saw(y)
            return y

        self._simulator.set_activation(component.name, observed)


def install(simulator: Simulator, patches: PatchMap) -> TokenTaps:
    """Make a simulator compute with the bits of single tokens; all other activations use the choices of the allocation."""
    taps = TokenTaps(simulator, patches)
    for component in simulator.inventory:
        name, choice = component.name, simulator.current(component.name)
        if name in patches.components:
            choices = patches.components[name].others.items()
            quantizers = {b: Calibration(known={name: c.parameters or {}}).quantizer(name, c.choice) for b, c in choices}
            if not choice.is_fp32:
                quantizers[choice.bits] = simulator.calibration.quantizer(name, choice)
            taps.set(component, taps.quantizer(component, quantizers))
        elif taps.ranker is not None and component.slot == "softmax":
            taps.set(component, None if choice.is_fp32 else simulator.quantizer(component, choice))
    if taps.ranker is not None:
        ranker = taps.ranker
        simulator.model.register_forward_pre_hook(lambda module, args: ranker.forget())
    return taps
