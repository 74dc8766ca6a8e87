"""Opening of a data set as images for calibration and disjoint images for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pmq.core.allocation import ModelInfo
from pmq.core.errors import PmqError
from pmq.core.files import is_dir, is_file
from pmq.core.paths import named_path
from pmq.core.progress import message
from pmq.data.classes import DEFAULT_RULE, ClassRule
from pmq.data.embedded import embedded_source
from pmq.data.folder import folder_source, timm_source
from pmq.data.image_shards import ImageShards
from pmq.data.image_table import COLUMNS, TABLES, TableKeys, table_source
from pmq.data.shards import has_samples, shard_source
from pmq.data.source import ImageSource
from pmq.models.embedded import EMBEDDED_NAME

TIMM_PREFIXES = ("torch/", "hfds/", "tfds/", "wds/", "hfids/")
#: prefixes of data sets that may be downloaded
FETCHED = ("hfds/", "tfds/", "wds/", "hfids/")
EVALUATION_SPLITS = ("val", "validation", "test")


@dataclass(frozen=True)
class Data:
    """Sources of calibration and evaluation images; if both are the same source, the seed divides its images."""

    calibration: ImageSource
    evaluation: ImageSource

    @property
    def shared(self) -> bool:
        """Whether calibration and evaluation images are drawn from the same source."""
        return self.calibration is self.evaluation

    def calibration_images(self, count: int, seed: int) -> Tensor:
        """Draw ``count`` calibration images ``(N, C, H, W)`` with ``seed``.

        Raises:
            PmqError: the source has fewer images.
        """
        if count > len(self.calibration):
            raise PmqError(
                f"{count} calibration images were requested, but {self.calibration.name} has {len(self.calibration)}; "
                "lower `n_calibration` or `n_held_out`"
            )
        return self.calibration.first_readable(self.calibration.draw(seed), count)

    def evaluation_shards(self, batch_size: int, indices: Sequence[int] | None = None) -> ImageShards:
        """Return evaluation images (by default all) in shards, which :func:`pmq.evaluate` finishes one by one or spreads."""
        return ImageShards(self.evaluation, range(len(self.evaluation)) if indices is None else indices, batch_size)

    def at_most(self, count: int, least: int) -> int:
        """Return ``count``, or the number of available images if that is lower, but at least ``least``; print a lower number.

        The available images are all images of the source, or half of them where evaluation shares the source.
        """
        if not least <= len(self.calibration) < count:
            return count
        available = len(self.calibration) // (2 if self.shared else 1)
        share = "half of them, as the others are for evaluation" if self.shared else "all of them"
        message(
            f"{self.calibration.name} has {len(self.calibration)} images: {available} are used as calibration and held-out "
            f"images, {share}"
        )
        return available

    def evaluation_indices(self, used: int, seed: int, limit: int | None = None) -> list[int]:
        """Return the indices of the images to evaluate on.

        These are all images of the source, without the ``used`` ones that calibration draws if it shares the source.
        Calibration replaces each unreadable image by another, so the largest possible number of replacements is excluded too.

        Args:
            used: number of images that calibration draws.
            seed: seed of calibration's draw.
            limit: maximum number of images; a fixed random sample is used.

        Raises:
            PmqError: no images remain.
        """
        drawn = used + self.evaluation.most_unreadable()
        indices = sorted(self.evaluation.draw(seed)[drawn:]) if self.shared else list(range(len(self.evaluation)))
        if limit is not None and limit < len(indices):
            allowed = set(indices)  # a random sample covers all classes; its seed is fixed so that results compare
            indices = sorted([i for i in self.evaluation.draw(0) if i in allowed][:limit])
        if not indices:
            raise PmqError(f"{self.evaluation.name} has no images left to evaluate on; lower `n_calibration` or `n_held_out`")
        return indices


def open_data(
    data: str | None,
    info: ModelInfo,
    split: str | None = None,
    crop_pct: float | None = None,
    workers: int = 0,
    rule: ClassRule = DEFAULT_RULE,
    keys: TableKeys = COLUMNS,
) -> Data:
    """Open the images for a model.

    Args:
        data: a folder with ``train`` and ``val`` or with class folders; a timm dataset such as ``torch/cifar10``
            (``ROOT::torch/cifar10``); a ``.tar`` of class folders; one WebDataset shard or a folder of them; a table
            (``.csv``, ``.parquet``) of files and labels; None for the embedded images, with the embedded model only.
        info: the model, whose data config determines preprocessing.
        split: folder or split to evaluate on.
        crop_pct: overrides the crop ratio of the data config.
        workers: number of processes that read images ahead.
        rule: how classes are numbered.
        keys: column names of a table.

    Raises:
        PmqError: the folder or the split does not exist, or has no images.
    """
    if data is None:
        if info.name != EMBEDDED_NAME:
            raise PmqError(f"model {info.name!r} needs images: pass a folder of class folders as `data`")
        return Data(embedded_source("train", info), embedded_source("test", info))
    folder, _, spec = data.rpartition("::")
    if spec.startswith("wds/") and is_dir(Path(folder or spec.removeprefix("wds/"))):
        data = folder or spec.removeprefix("wds/")  # local shards need no reader of timm
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
            raise PmqError(f"archive {data!r} is not a file; choose a .tar of class folders or a shard of samples")
        if has_samples(root):
            archive = shard_source([root], info, crop_pct, workers, rule, keys)
        else:
            archive = timm_source(f"{root}::", "", info, crop_pct, workers, rule)
        return Data(archive, archive)
    if not is_dir(root):
        raise PmqError(f"data folder {data!r} does not exist; choose a folder with train and val, or with class folders")
    splits = (split,) if split else EVALUATION_SPLITS
    shards = sorted(path for path in root.glob("*.tar") if is_file(path))
    if shards and has_samples(shards[0]):
        return _split_shards(data, shards, splits, lambda paths: shard_source(paths, info, crop_pct, workers, rule, keys))
    split_folder = next((root / s for s in splits if (root / s).is_dir()), None)
    if split and split_folder is None:
        raise PmqError(f"data folder {data!r} has no split {split!r}; it has {', '.join(sorted(_folders(root))[:8])}")
    if split_folder is None and (root / "train").is_dir():
        raise PmqError(
            f"data folder {data!r} has train but none of {', '.join(EVALUATION_SPLITS)}; "
            f"pass one of {', '.join(sorted(_folders(root))[:8])} as `split`"
        )
    evaluation = folder_source(split_folder or root, info, crop_pct, workers, rule)
    train = root / "train"
    if split_folder and train.is_dir() and train != split_folder:
        return Data(folder_source(train, info, crop_pct, workers, rule), evaluation)
    return Data(evaluation, evaluation)


def _split_shards(
    data: str, shards: list[Path], splits: tuple[str, ...], open_shards: Callable[[list[Path]], ImageSource]
) -> Data:
    """Divide the shards of a folder by name into evaluation and calibration shards; if no name fits, all serve both."""
    matches = ([shard for shard in shards if split in shard.name] for split in splits)
    evaluation_shards = next((paths for paths in matches if paths), None)
    if evaluation_shards is None and len(splits) == 1:
        raise PmqError(f"data folder {data!r} has no shard named after split {splits[0]!r}; it has {shards[0].name}, ...")
    train_shards = [shard for shard in shards if "train" in shard.name and shard not in (evaluation_shards or ())]
    evaluation = open_shards(evaluation_shards or shards)
    return Data(open_shards(train_shards), evaluation) if evaluation_shards and train_shards else Data(evaluation, evaluation)


def check_local(data: str | None) -> None:
    """Check that the data set named in a file would not be downloaded.

    Raises:
        PmqError: it would be downloaded, which the user must request by name.
    """
    if data is not None and data.rpartition("::")[2].startswith(FETCHED):
        raise PmqError(
            f"the run uses data {data!r}, which may not be downloaded because of a file alone; pass it as `data` if you trust it"
        )


def _folders(root: Path) -> list[str]:
    """Return the names of the folders in ``root``, for messages."""
    return [p.name for p in root.iterdir() if p.is_dir()] or ["no folders at all"]
