"""WebDataset shards: tar archives of samples, each of several files with one name, such as ``0017.jpg`` and ``0017.cls``."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from pmq.core.allocation import ModelInfo
from pmq.core.errors import PmqError, one_line
from pmq.core.files import quoted
from pmq.core.picture import extensions, picture_of
from pmq.core.progress import message, track
from pmq.data.classes import ClassRule
from pmq.data.folder import Preprocess
from pmq.data.image_table import TableKeys
from pmq.data.source import ImageSource
from pmq.data.targets import label_all

#: extensions of the files with a sample's class (a number or a name, or JSON), and the key of the class in JSON
_CLASS, _JSON, _KEY = "cls", "json", "label"
#: maximum size of a file with a class, in bytes
_MAX_CLASS_BYTES = 1 << 20


@dataclass
class _Sample:
    """Location of an image in a shard, and its class as written there."""

    shard: Path
    offset: int = 0
    size: int = 0
    target: str | None = None


class Shards(Dataset[tuple[Tensor, int]]):
    """Dataset of the images in shards, in order, each read directly from the archive.

    Raises:
        PmqError: a shard cannot be read, or the shards have no images.
    """

    def __init__(self, shards: Sequence[Path], info: ModelInfo, preprocess: Preprocess, rule: ClassRule, keys: TableKeys) -> None:
        label = quoted(shards[0]) if len(shards) == 1 else f"{len(shards)} shards such as {quoted(shards[0])}"
        samples = [s for shard in track(shards, "listing shards") for s in _samples(shard, keys) if s.size]
        if not samples:
            raise PmqError(f"no images in {label}; the files of a sample share a name, such as 0017.jpg and 0017.{_CLASS}")
        self.samples, self.preprocess = samples, preprocess
        targets = [s.target for s in samples if s.target is not None]
        if len(targets) < len(samples):
            message(f"{label}: {len(samples) - len(targets)} of {len(samples)} images have no class")
        known_labels, self.classes = label_all(targets, info.num_classes, rule, label)
        labels = iter(known_labels)
        self.labels = [-1 if s.target is None else next(labels) for s in samples]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        sample = self.samples[index]
        with sample.shard.open("rb") as file:
            file.seek(sample.offset)
            content = file.read(sample.size)
        with picture_of(content) as image:
            return self.preprocess(image), self.labels[index]

    def __len__(self) -> int:
        return len(self.samples)


def has_samples(archive: Path) -> bool:
    """Return whether an archive is a shard, that is, has a file with a class among its first files."""
    try:
        with tarfile.open(archive) as opened:
            for _, member in zip(range(64), opened, strict=False):
                if member.name.rpartition("/")[2].partition(".")[2] == _CLASS:
                    return True
    except (tarfile.TarError, OSError, EOFError):
        return False  # the error is raised when the archive is read
    return False


def _samples(shard: Path, keys: TableKeys) -> Iterator[_Sample]:
    """Yield the samples of a shard, in order; those without an image have size 0."""
    image_extensions, sample, current = extensions(), _Sample(shard), None
    class_extension = keys.target or _CLASS
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, file = member.name.rpartition("/")
                stem, _, end = file.partition(".")
                if current != (current := (folder, stem)):
                    yield sample
                    sample = _Sample(shard)
                if end == keys.image or (keys.image is None and f".{end.lower()}" in image_extensions):
                    sample.offset, sample.size = member.offset_data, member.size
                elif end in (class_extension, _JSON) and sample.target is None and member.size <= _MAX_CLASS_BYTES:
                    opened = archive.extractfile(member)
                    sample.target = None if opened is None else _target(opened.read(), end, keys.target or _KEY)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise PmqError(f"shard {quoted(shard)} cannot be read: {one_line(error)}; provide an uncompressed .tar") from None
    yield sample


def _target(content: bytes, end: str, key: str) -> str | None:
    """Return the class in the content of a file with extension ``end``, or None if JSON has none under ``key``."""
    text = content.decode("utf-8", errors="replace").strip()
    if end != _JSON:
        return text
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    value = parsed.get(key) if isinstance(parsed, dict) else None
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else None


def shard_source(
    shards: Sequence[Path], info: ModelInfo, crop_pct: float | None, workers: int, rule: ClassRule, keys: TableKeys
) -> ImageSource:
    """Open shards of images."""
    dataset = Shards(shards, info, Preprocess(info, crop_pct), rule, keys)
    return ImageSource(dataset, quoted(shards[0].parent if len(shards) > 1 else shards[0]), workers, dataset.classes)
