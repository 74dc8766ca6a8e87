"""Images of the embedded default: the test set of Fashion-MNIST and 1,000 training images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pmq.core.allocation import ModelInfo
from pmq.data.source import ImageSource
from pmq.models.embedded import ASSETS


class EmbeddedImages(Dataset[tuple[Tensor, int]]):
    """8-bit images ``(N, 28, 28)``, normalised with the mean and the standard deviation of the model's data config."""

    def __init__(self, path: Path, mean: float, std: float) -> None:
        with np.load(path) as archive:
            self.images, self.labels = archive["images"], archive["labels"]
        self.mean, self.std = mean, std

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(self.images[index].astype(np.float32))
        return ((image / 255 - self.mean) / self.std).unsqueeze(0), int(self.labels[index])

    def __len__(self) -> int:
        return len(self.labels)


def embedded_source(split: str, info: ModelInfo) -> ImageSource:
    """Open the split ``train`` (1,000 images for calibration) or ``test`` (10,000 images)."""
    config = info.data_config
    return ImageSource(EmbeddedImages(ASSETS / f"{split}.npz", config["mean"][0], config["std"][0]), f"the embedded {split} set")
