"""Calibration: what activations look like on a few images, and the quantizers that follow from it."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from pmq.core.allocation import CalibrationInfo
from pmq.core.choice import Choice
from pmq.core.component import Inventory
from pmq.core.errors import PmqError
from pmq.core.progress import track
from pmq.quant.instrument import Instrument, TapFunction
from pmq.quant.quantizers import QUANTIZERS, Quantizer
from pmq.quant.weights import estimate_range

#: values kept of each activation; its smallest and largest are always among them
SAMPLES = 2**15
BATCH = 16


class Calibration:
    """Ranges of activations, estimated when first asked for, or known beforehand.

    Args:
        samples: for each activation component some of its values ``(K,)``.
        known: ranges that need no samples, by component.
        info: which images the samples are from.
    """

    def __init__(
        self,
        samples: dict[str, Tensor] | None = None,
        known: dict[str, tuple[float, float]] | None = None,
        info: CalibrationInfo | None = None,
    ) -> None:
        self._samples, self._known, self.info = samples or {}, known or {}, info
        self._cache: dict[tuple[str, str], tuple[float, float]] = {}

    def range(self, name: str, choice: Choice) -> tuple[float, float]:
        """Range of activation ``name`` under ``choice``.

        Raises:
            PmqError: it is neither known nor was it sampled.
        """
        if name in self._known:
            return self._known[name]
        key = (name, choice.key())
        if key not in self._cache:
            if name not in self._samples:
                raise PmqError(f"activation {name!r} was not calibrated: pass images, or an allocation that has its range")
            low, high = estimate_range(self._samples[name].reshape(1, -1), choice)
            self._cache[key] = (float(low), float(high))
        return self._cache[key]

    def quantizer(self, name: str, choice: Choice) -> Quantizer:
        """Quantizer of activation ``name`` under ``choice``, one scale for the whole tensor."""
        low, high = self.range(name, choice)
        return QUANTIZERS[choice.quantizer].from_range(torch.tensor(low), torch.tensor(high), choice.bits, choice.symmetric)


@torch.no_grad()
def calibrate(model: nn.Module, inventory: Inventory, images: Tensor, seed: int = 0, n_held_out: int = 0) -> Calibration:
    """Run ``images`` ``(N, C, H, W)`` through the FP32 model and keep a sample of every activation.

    Memory does not grow with ``N``. ``n_held_out`` is remembered: how many further images, drawn by the same seed, a
    search has judged on. Raises :class:`PmqError` for activations that are not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    kept: dict[str, list[Tensor]] = {c.name: [] for c in inventory if c.role == "activation"}
    ends: dict[str, tuple[float, float]] = {}
    share = 1.0

    def recorder(name: str) -> TapFunction:
        def record(x: Tensor) -> Tensor:
            flat = x.reshape(-1)
            low, high = (float(v) for v in torch.aminmax(flat))
            if not (-torch.inf < low and high < torch.inf):
                raise PmqError(f"activation {name!r} is not finite on the calibration images: check checkpoint and data")
            before = ends.get(name, (low, high))
            ends[name] = (min(low, before[0]), max(high, before[1]))
            count = min(flat.numel(), max(1, round(SAMPLES * share)))
            index = torch.randint(flat.numel(), (count,), generator=generator)
            kept[name].append(flat[index.to(flat.device)].float().cpu())
            return x

        return record

    with Instrument(model, inventory) as instrument:
        for name in kept:
            instrument.set_activation(name, recorder(name))
        for batch in track(images.split(BATCH), "calibrating"):
            share = len(batch) / len(images)
            model(batch.to(next(model.parameters()).device))
    samples = {name: torch.cat([*parts, torch.tensor(ends[name])]) for name, parts in kept.items()}
    info = CalibrationInfo(sha256=images_sha256(images), n_images=len(images), n_held_out=n_held_out, seed=seed)
    return Calibration(samples, info=info)


def images_sha256(images: Tensor) -> str:
    """Hash of preprocessed images, in order."""
    return hashlib.sha256(images.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
