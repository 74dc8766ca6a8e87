"""Images in shards of WebDataset's form: tar archives of samples, each some files of one name: ``0017.jpg``, ``0017.cls``."""

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
from pmq.data.source import ImageSource
from pmq.data.table import TableKeys
from pmq.data.targets import label_all

#: files of a sample that say its class: a number or a name, or JSON that has it by a key
_CLASS, _JSON, _KEY = "cls", "json", "label"
#: bytes of a file that says a class, at most
_MOST = 1 << 20


@dataclass
class _Sample:
    """Where an image lies, and what is said of its class."""

    shard: Path
    offset: int = 0
    size: int = 0
    target: str | None = None


class Shards(Dataset[tuple[Tensor, int]]):
    """Images of shards, in their order, each read where it lies.

    Raises:
        PmqError: a shard cannot be read, or there are no images in them.
    """

    def __init__(self, shards: Sequence[Path], info: ModelInfo, preprocess: Preprocess, rule: ClassRule, keys: TableKeys) -> None:
        what = quoted(shards[0]) if len(shards) == 1 else f"{len(shards)} shards as {quoted(shards[0])}"
        samples = [s for shard in track(shards, "listing shards") for s in _samples(shard, keys) if s.size]
        if not samples:
            raise PmqError(f"no images in {what}; samples are files of one name, such as 0017.jpg and 0017.{_CLASS}")
        self.samples, self.preprocess = samples, preprocess
        told = [s.target for s in samples if s.target is not None]
        if len(told) < len(samples):
            message(f"{what}: {len(samples) - len(told)} of {len(samples)} images have no class")
        found, self.classes = label_all(told, info.num_classes, rule, what)
        labels = iter(found)
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
    """Whether an archive is a shard: some sample says its class in a file of its own. Its beginning tells."""
    try:
        with tarfile.open(archive) as opened:
            for _, member in zip(range(64), opened, strict=False):
                if member.name.rpartition("/")[2].partition(".")[2] == _CLASS:
                    return True
    except (tarfile.TarError, OSError, EOFError):
        return False  # whoever reads it says what is wrong
    return False


def _samples(shard: Path, keys: TableKeys) -> Iterator[_Sample]:
    ends, sample, at = extensions(), _Sample(shard), None
    wanted = keys.target or _CLASS
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, file = member.name.rpartition("/")
                stem, _, end = file.partition(".")
                if at != (at := (folder, stem)):
                    yield sample
                    sample = _Sample(shard)
                if end == keys.image or (keys.image is None and f".{end.lower()}" in ends):
                    sample.offset, sample.size = member.offset_data, member.size
                elif end in (wanted, _JSON) and sample.target is None and member.size <= _MOST:
                    opened = archive.extractfile(member)
                    sample.target = None if opened is None else _target(opened.read(), end, keys.target or _KEY)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise PmqError(f"shard {quoted(shard)} cannot be read: {one_line(error)}; give an uncompressed .tar") from None
    yield sample


def _target(content: bytes, end: str, key: str) -> str | None:
    text = content.decode("utf-8", errors="replace").strip()
    if end != _JSON:
        return text
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    value = found.get(key) if isinstance(found, dict) else None
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else None


def shard_source(
    shards: Sequence[Path], info: ModelInfo, crop_pct: float | None, workers: int, rule: ClassRule, keys: TableKeys
) -> ImageSource:
    """Open shards."""
    found = Shards(shards, info, Preprocess(info, crop_pct), rule, keys)
    return ImageSource(found, quoted(shards[0].parent if len(shards) > 1 else shards[0]), workers, found.classes)
