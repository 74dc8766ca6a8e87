"""Source of images for a model: any map-style dataset, with unreadable files counted and skipped."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pmq.core.errors import PmqError, one_line
from pmq.core.progress import message, track
from pmq.data.classes import ClassNumbering

#: maximum share of unreadable images
TOLERATED = 0.01
Batch = tuple[Tensor, Tensor]


class _Tolerant(Dataset[tuple[Tensor | None, int, str]]):
    """Dataset of ``(image, label, "")``, or ``(None, -1, error)`` where reading fails."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[Tensor | None, int, str]:
        try:
            image, label = self.dataset[index]
            return image, int(label), ""
        # all errors that Pillow raises for damaged files
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


def _ignore_signals(_: int) -> None:
    """Let a worker process ignore the signals of the terminal, which the main process handles."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # any other status would be reported as an error


def _collate(items: Sequence[tuple[Tensor | None, int, str]]) -> tuple[Tensor | None, Tensor, list[str]]:
    """Stack the readable images of a batch; return them (None without any), their labels and the errors."""
    good = [(image, label) for image, label, _ in items if image is not None]
    images = torch.stack([image for image, _ in good]) if good else None
    return images, torch.tensor([label for _, label in good]), [bad for *_, bad in items if bad]


def _checked(loader: Iterable[Any]) -> Iterator[Any]:
    """Yield batches, and raise a PmqError if a worker process died, such as for lack of memory."""
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise PmqError(f"a process that reads images ahead died: {one_line(error)}; lower `workers`") from None


class ImageSource:
    """Source of preprocessed images ``(C, H, W)`` with labels (-1: unknown).

    Args:
        dataset: map-style dataset; ``dataset[i]`` is ``(image, label)``, ``dataset.files`` may list the files.
        name: name of the source in messages.
        workers: number of processes that read images ahead.
        classes: output of the model for each class, where the dataset names its classes.
    """

    def __init__(self, dataset: Any, name: str, workers: int = 0, classes: ClassNumbering | None = None) -> None:
        self.classes = classes
        self.dataset, self.name, self.workers = _Tolerant(dataset), name, workers
        self.unreadable: list[str] = []

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(self, batch_size: int, indices: Sequence[int] | None = None, n_total: int | None = None) -> Iterator[Batch]:
        """Yield ``(images, labels)`` in the order of ``indices`` (by default all).

        Args:
            batch_size: number of images per batch.
            indices: images to read.
            n_total: number of images that the tolerated share of unreadable ones refers to; by default those that are read.

        Raises:
            PmqError: more than 1 % of the images cannot be read, or a process that reads ahead died.
        """
        chosen = range(len(self)) if indices is None else indices
        bad: list[str] = []
        for images, labels, failed in self.read([chosen[i : i + batch_size] for i in range(0, len(chosen), batch_size)]):
            bad += failed
            self.tolerate(bad, n_total or len(chosen))
            if images is not None:
                yield images, labels
        self.unreadable = bad

    def read(self, batches: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor | None, Tensor, list[str]]]:
        """Read batches of images, given by their numbers, ahead of whoever takes them if there are processes for that.

        Yields:
            The readable images of each batch (None without any), their labels, and the names of the others, which are reported.

        Raises:
            PmqError: a process that reads ahead died.
        """
        loader = DataLoader(
            self.dataset,
            batch_sampler=[list(batch) for batch in batches],
            num_workers=self.workers,
            collate_fn=_collate,
            worker_init_fn=_ignore_signals,
        )
        for images, labels, failed in _checked(loader):
            for name in failed:
                message(f"unreadable, skipped: {name}")
            yield images, labels, failed

    def tolerate(self, unreadable: Sequence[str], total: int) -> None:
        """Raise if more than 1 % of ``total`` images cannot be read.

        Raises:
            PmqError: see above.
        """
        if len(unreadable) > TOLERATED * total:
            raise PmqError(
                f"{len(unreadable)} of {total} images in {self.name} cannot be read (at most 1 % is allowed), "
                f"such as {unreadable[0]}"
            )

    def identity(self, indices: Sequence[int]) -> str:
        """Return a digest of which images these are: name and number, and size and time of change of their files."""
        digest = hashlib.sha256(f"{self.name} {len(self)}".encode())
        digest.update(np.asarray(indices, dtype=np.int64).tobytes())
        inner = getattr(self.dataset.dataset, "dataset", self.dataset.dataset)
        shards = [sample.shard for sample in getattr(inner, "samples", ()) if hasattr(sample, "shard")]
        files: Sequence[Any] = getattr(inner, "files", None) or shards
        for path in dict.fromkeys(map(str, files)):
            try:
                status = Path(path).stat()
                digest.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
            except OSError:
                digest.update(f"{path} unreadable".encode())
        return digest.hexdigest()

    def files_of(self, indices: Sequence[int]) -> list[str]:
        """Return the files of images; empty if the images are not files or some could not be read."""
        files = getattr(self.dataset.dataset, "files", None)
        return [] if files is None or self.unreadable else [str(files[index]) for index in indices]

    def first_readable(self, order: Sequence[int], count: int) -> Tensor:
        """Return the first ``count`` readable images of ``order``, as ``(N, C, H, W)``; fewer if ``order`` ends before.

        Raises:
            PmqError: no image can be read.
        """
        readable: list[Tensor] = []
        position = 0
        while (missing := count - len(readable)) and position < len(order):
            batches = self.batches(16, order[position : position + missing], n_total=len(self))
            for images, _ in track(batches, "reading images", total=-(-missing // 16)):
                readable += images
            position += missing
        if not readable:
            raise PmqError(f"none of {len(order)} images drawn from {self.name} can be read; repair them or draw more images")
        return torch.stack(readable)

    def most_unreadable(self) -> int:
        """Return the maximum number of images that may be unreadable."""
        return int(TOLERATED * len(self))

    def draw(self, seed: int) -> list[int]:
        """Return all indices in a random order that depends only on ``seed``; calibration uses the first ones."""
        return [int(i) for i in np.random.default_rng(seed).permutation(len(self))]
