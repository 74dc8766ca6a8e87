"""Images to feed to a model: any map-style dataset, with unreadable files counted and left out."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from pmq.core.errors import PmqError, one_line
from pmq.core.progress import message, track
from pmq.data.classes import Numbered

#: share of unreadable images above which a run stops
TOLERATED = 0.01
Batch = tuple[Tensor, Tensor]


class _Forgiving(Dataset[tuple[Tensor | None, int, str]]):
    """Gives ``(image, label, "")``, or ``(None, label, what failed)`` where reading fails."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[Tensor | None, int, str]:
        try:
            image, label = self.dataset[index]
            return image, int(label), ""
        # what Pillow raises on bad files
        except (
            OSError,
            SyntaxError,
            ValueError,
            UnidentifiedImageError,
            Image.DecompressionBombError,
        ) as error:
            return None, -1, f"{self._name(index)} ({error})"

    def _name(self, index: int) -> str:
        files = getattr(self.dataset, "files", None)
        return str(files[index]) if files is not None else f"image {index}"

    def __len__(self) -> int:
        return len(self.dataset)


def _leave_signals(_: int) -> None:
    """In a process that reads ahead: what a terminal sends reaches it too, but the process that it reads for answers."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # any other status would be told as an error


def _collate(items: Sequence[tuple[Tensor | None, int, str]]) -> tuple[Tensor | None, Tensor, list[str]]:
    good = [(image, label) for image, label, _ in items if image is not None]
    images = torch.stack([image for image, _ in good]) if good else None
    return images, torch.tensor([label for _, label in good]), [bad for *_, bad in items if bad]


def _alive(reading: Iterable[Any]) -> Iterator[Any]:
    """Yield batches; tell where a process that read them was killed, as for want of memory."""
    try:
        yield from reading
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise PmqError(f"a process that reads images ahead died: {one_line(error)}; lower --workers") from None


class ImageSource:
    """A dataset of preprocessed images ``(C, H, W)`` with labels (-1: unknown).

    Args:
        dataset: map-style; ``dataset[i]`` gives ``(image, label)``, ``dataset.files`` may name the files.
        name: for messages.
        workers: processes that read ahead.
        classes: which output of the model each of its classes is, where it names them.
    """

    def __init__(self, dataset: Any, name: str, workers: int = 0, classes: Numbered | None = None) -> None:
        self.classes = classes
        self.dataset, self.name, self.workers = _Forgiving(dataset), name, workers
        self.unreadable: list[str] = []

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(self, batch_size: int, indices: Sequence[int] | None = None, of: int | None = None) -> Iterator[Batch]:
        """Yield ``(images, labels)`` of ``indices`` (all) in order.

        Raises:
            PmqError: more than 1 % of the images (of ``of`` images, where these are a sample) cannot be read, or a process
                that reads ahead died.
        """
        chosen: Dataset[Any] = self.dataset if indices is None else Subset(self.dataset, list(indices))
        total = of or len(chosen)  # type: ignore[arg-type]
        bad: list[str] = []
        reading = DataLoader(chosen, batch_size, num_workers=self.workers, collate_fn=_collate, worker_init_fn=_leave_signals)
        for images, labels, failed in _alive(reading):
            for name in failed:
                message(f"unreadable, left out: {name}")
            bad += failed
            if len(bad) > TOLERATED * total:
                raise PmqError(f"{len(bad)} of {total} images in {self.name} cannot be read (at most 1 % may), as {bad[0]}")
            if images is not None:
                yield images, labels
        self.unreadable = bad

    def files_of(self, indices: Sequence[int]) -> list[str]:
        """Files of images, if they are files and all of these can be read; else none."""
        files = getattr(self.dataset.dataset, "files", None)
        return [] if files is None or self.unreadable else [str(files[index]) for index in indices]

    def first_readable(self, order: Sequence[int], count: int) -> Tensor:
        """Read the first ``count`` images of ``order`` that can be read: ``(N, C, H, W)``.

        Raises:
            PmqError: none can be read.
        """
        kept: list[Tensor] = []
        at = 0
        while (missing := count - len(kept)) and at < len(order):
            batches = self.batches(16, order[at : at + missing], of=len(self))
            for images, _ in track(batches, "reading images", total=-(-missing // 16)):
                kept += images
            at += missing
        if not kept:
            raise PmqError(f"none of {len(order)} images drawn from {self.name} can be read; mend them, or ask for more")
        return torch.stack(kept)

    def most_unreadable(self) -> int:
        """How many images may fail before a run stops."""
        return int(TOLERATED * len(self))

    def draw(self, seed: int) -> list[int]:
        """Put all indices into an order that depends on ``seed`` alone: calibration takes them from its beginning."""
        return [int(i) for i in np.random.default_rng(seed).permutation(len(self))]
