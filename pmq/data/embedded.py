"""The images of the embedded default: Fashion-MNIST's test set and a thousand training images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pmq.core.allocation import ModelInfo
from pmq.data.source import ImageSource
from pmq.models.embedded import ASSETS


class Bytes(Dataset[tuple[Tensor, int]]):
    """Images ``(N, 28, 28)`` of bytes, normalised as the model's data config says."""

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
    """Open ``train`` (1,000 images, for calibration) or ``test`` (10,000)."""
    config = info.data_config
    return ImageSource(Bytes(ASSETS / f"{split}.npz", config["mean"][0], config["std"][0]), f"the embedded {split} images")
