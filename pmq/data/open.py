"""From what the user says about data to images for calibration and images for evaluation, never the same ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pmq.core.allocation import ModelInfo
from pmq.core.errors import PmqError
from pmq.core.files import is_dir, is_file
from pmq.core.paths import named_path
from pmq.core.progress import message
from pmq.data.classes import UNTOLD, ClassRule
from pmq.data.embedded import embedded_source
from pmq.data.folder import folder_source, timm_source
from pmq.data.shards import has_samples, shard_source
from pmq.data.source import ImageSource
from pmq.data.table import COLUMNS, TABLES, TableKeys, table_source
from pmq.models.embedded import EMBEDDED_NAME

TIMM_PREFIXES = ("torch/", "hfds/", "tfds/", "wds/", "hfids/")
#: of which these may be fetched from a network
FETCHED = ("hfds/", "tfds/", "wds/", "hfids/")
EVALUATION_SPLITS = ("val", "validation", "test")


@dataclass(frozen=True)
class Data:
    """Where images come from. One source may serve both purposes; then its images are divided by the seed."""

    calibration: ImageSource
    evaluation: ImageSource

    @property
    def shared(self) -> bool:
        """Whether both are drawn from the same images."""
        return self.calibration is self.evaluation

    def calibration_images(self, count: int, seed: int) -> Tensor:
        """Draw ``count`` images by ``seed``: ``(N, C, H, W)``.

        Raises:
            PmqError: there are not that many.
        """
        if count > len(self.calibration):
            raise PmqError(
                f"{count} calibration images asked, {self.calibration.name} has {len(self.calibration)}; "
                "lower --calib-images or --held-out"
            )
        return self.calibration.first_readable(self.calibration.draw(seed), count)

    def at_most(self, count: int, least: int) -> int:
        """``count``; if there are fewer, but ``least``, all, or half of those that evaluation shares, which is told."""
        if not least <= len(self.calibration) < count:
            return count
        there = len(self.calibration) // (2 if self.shared else 1)
        whose = "half of them, the others are to evaluate on" if self.shared else "all of them"
        message(f"{self.calibration.name} has {len(self.calibration)} images: {there} calibrate, measure and judge, {whose}")
        return there

    def evaluation_indices(self, used: int, seed: int, limit: int | None = None) -> list[int]:
        """Name the images to evaluate on: all, or all but the ``used`` ones that calibration draws from the same source.

        Calibration draws another image for each that it cannot read, so as many more as that may be are left out.
        """
        drawn = used + self.evaluation.most_unreadable()
        indices = sorted(self.evaluation.draw(seed)[drawn:]) if self.shared else list(range(len(self.evaluation)))
        if limit is not None and limit < len(indices):
            allowed = set(indices)  # spread over the classes, the same ones every time
            indices = sorted([i for i in self.evaluation.draw(0) if i in allowed][:limit])
        if not indices:
            raise PmqError(f"{self.evaluation.name} has no images left to evaluate on; lower --calib-images or --held-out")
        return indices


def open_data(
    data: str | None,
    info: ModelInfo,
    split: str | None = None,
    crop_pct: float | None = None,
    workers: int = 0,
    rule: ClassRule = UNTOLD,
    keys: TableKeys = COLUMNS,
) -> Data:
    """Open the images for a model.

    Args:
        data: a folder, with ``train`` and ``val`` below it or class folders at once; a timm dataset as ``torch/cifar10``
            (``ROOT::torch/cifar10``); a ``.tar`` of class folders; shards of WebDataset's form, one or a folder of
            them; a table (``.csv``, ``.parquet``) of files and labels; without it the embedded images, for the embedded model.
        info: the model, whose data config decides preprocessing.
        split: folder or split to evaluate on.
        crop_pct: overrides the data config's.
        workers: processes that read ahead.
        rule: how classes are numbered.
        keys: columns of a table.

    Raises:
        PmqError: no such folder or split, or no images in it.
    """
    if data is None:
        if info.name != EMBEDDED_NAME:
            raise PmqError(f"model {info.name!r} needs images: give --data a folder of class folders")
        return Data(embedded_source("train", info), embedded_source("test", info))
    folder, _, spec = data.rpartition("::")
    if spec.startswith("wds/") and is_dir(Path(folder or spec.removeprefix("wds/"))):
        data = folder or spec.removeprefix("wds/")  # shards that lie here are read where they lie
    if data.rpartition("::")[2].startswith(TIMM_PREFIXES):
        columns = keys.named() if data.rpartition("::")[2].startswith(("hfds/", "hfids/", "tfds/")) else {}
        evaluation = timm_source(data, split or "validation", info, crop_pct, workers, rule, columns)
        if split == "train":
            return Data(evaluation, evaluation)
        return Data(timm_source(data, "train", info, crop_pct, workers, rule, columns), evaluation)
    root = named_path(data, "data folder")
    if root.suffix.lower() in TABLES:
        table = table_source(root, info, crop_pct, workers, rule, keys)
        return Data(table, table)
    if root.suffix.lower() == ".tar" and not is_dir(root):
        if not is_file(root):
            raise PmqError(f"archive {data!r} is no file; give a .tar of class folders, or a shard of samples")
        if has_samples(root):
            archive = shard_source([root], info, crop_pct, workers, rule, keys)
        else:
            archive = timm_source(f"{root}::", "", info, crop_pct, workers, rule)
        return Data(archive, archive)
    if not is_dir(root):
        raise PmqError(f"data folder {data!r} does not exist; give a folder with train and val, or with class folders")
    splits = (split,) if split else EVALUATION_SPLITS
    shards = sorted(path for path in root.glob("*.tar") if is_file(path))
    if shards and has_samples(shards[0]):
        return _of_shards(data, shards, splits, lambda of: shard_source(of, info, crop_pct, workers, rule, keys))
    found = next((root / s for s in splits if (root / s).is_dir()), None)
    if split and found is None:
        raise PmqError(f"data folder {data!r} has no split {split!r}; it has {', '.join(sorted(_folders(root))[:8])}")
    if found is None and (root / "train").is_dir():
        raise PmqError(
            f"data folder {data!r} has train but none of {', '.join(EVALUATION_SPLITS)}; "
            f"name one of {', '.join(sorted(_folders(root))[:8])} with --split"
        )
    evaluation = folder_source(found or root, info, crop_pct, workers, rule)
    train = root / "train"
    if found and train.is_dir() and train != found:
        return Data(folder_source(train, info, crop_pct, workers, rule), evaluation)
    return Data(evaluation, evaluation)


def _of_shards(data: str, shards: list[Path], splits: tuple[str, ...], opened: Callable[[list[Path]], ImageSource]) -> Data:
    """Shards of a folder by what their names say: those to evaluate on, those to calibrate on; else all serve both."""
    judged = next((of for split in splits if (of := [shard for shard in shards if split in shard.name])), None)
    if judged is None and len(splits) == 1:
        raise PmqError(f"data folder {data!r} has no shard called as split {splits[0]!r}; it has {shards[0].name}, ...")
    trained = [shard for shard in shards if "train" in shard.name and shard not in (judged or ())]
    evaluation = opened(judged or shards)
    return Data(opened(trained), evaluation) if judged and trained else Data(evaluation, evaluation)


def check_at_hand(data: str | None) -> None:
    """Raise if images that a file tells of would be fetched from a network.

    Raises:
        PmqError: they would, and whoever runs us has not typed that.
    """
    if data is not None and data.rpartition("::")[2].startswith(FETCHED):
        raise PmqError(f"the run is on data {data!r}, which a file alone may not fetch; name it with --data if you trust it")


def _folders(root: Path) -> list[str]:
    return [p.name for p in root.iterdir() if p.is_dir()] or ["no folders at all"]
