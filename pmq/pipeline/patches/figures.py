"""Pictures of the bits of patches over images."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pmq.core import Allocation, PmqError
from pmq.core.task import AUTO
from pmq.patches import attends_globally
from pmq.pipeline.allocation import load_quantized
from pmq.pipeline.images import as_images
from pmq.pipeline.pruned_model import shaped_like
from pmq.pipeline.subject import Subject
from pmq.pipeline.torch_modes import undisturbed
from pmq.quant import build_quantized_model
from pmq.quant.tokens import install
from pmq.reporting.patch_data import save_patches


@undisturbed
def draw_patches(
    model: nn.Module | str | None, allocation: Allocation, images: Tensor, folder: Path, crop_pct: float | None = None
) -> list[Path]:
    """Draw the bits of patches over images ``(N, C, H, W)`` and return the files written.

    Raises:
        PmqError: the allocation has no map of patches, or is of another model.
    """
    from pmq.reporting.patches import plot_patches  # matplotlib is imported where something is drawn

    patches = allocation.patches
    if patches is None:
        raise PmqError("this allocation has no bits of patches; `pmq patches` adds them")
    images = as_images(images).cpu()
    subject = shaped_like(Subject.of(model, "cpu", images, crop_pct, allocation.task or AUTO, allocation), allocation)
    simulator = build_quantized_model(
        copy.deepcopy(subject.model), subject.inventory, replace(load_quantized(subject, allocation), patches=None)
    )
    taps = install(simulator, patches)
    with torch.no_grad():
        simulator.model(images)
    # Windowed attention orders tokens by window, so its bits have no place in the picture.
    ordered = attends_globally(subject.inventory)
    drawn = {name: q for name, q in taps.quantizers.items() if ordered or ".attn." not in name}
    bits = {name: q.token_bits(len(images)).numpy() for name, q in drawn.items()}
    config = subject.info.data_config
    default = [0.5] * images.shape[1]
    mean, std = (np.array(config.get(key, default), np.float32)[: images.shape[1]] for key in ("mean", "std"))
    pictures = np.clip(images.permute(0, 2, 3, 1).numpy() * std + mean, 0, 1)
    title = f"{subject.info.name.split('.')[0]}, map of patches ({patches.label})"
    return [
        *plot_patches(bits, pictures, patches.prefix, title, folder),
        save_patches(bits, pictures, patches.prefix, patches.label, folder),
    ]
