"""Image folders and timm's datasets, preprocessed as timm says the model wants it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from pmq.core.allocation import ModelInfo
from pmq.core.errors import PmqError, one_line
from pmq.core.progress import message
from pmq.data.source import ImageSource

WNID = re.compile(r"n\d{8}")
Transform = Callable[[Image.Image], Tensor]


class ImageTree(Dataset[tuple[Tensor, int]]):
    """Images in class folders.

    Folders named by WordNet ids are classes of ImageNet, whichever of them are there; other folders are numbered in
    natural order if there is one for each class of the model, else the labels are unknown (-1).

    Raises:
        PmqError: no images, or a WordNet id that ImageNet-1k does not have.
    """

    def __init__(self, root: Path, num_classes: int, transform: Transform) -> None:
        from timm.data.readers.reader_image_folder import find_images_and_targets

        pairs, folders = find_images_and_targets(str(root))
        if not pairs:
            raise PmqError(f"no images below {str(root)!r}; give a folder with one folder of images for each class")
        classes = _class_indices(list(folders), num_classes, root)
        names = {index: folder for folder, index in folders.items()}
        self.files = [path for path, _ in pairs]
        self.labels = [classes.get(names[index], -1) for _, index in pairs]
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB")), self.labels[index]

    def __len__(self) -> int:
        return len(self.files)


def _class_indices(folders: list[str], num_classes: int, root: Path) -> dict[str, int]:
    from timm.data import ImageNetInfo

    if folders and all(WNID.fullmatch(f) for f in folders) and num_classes == 1000:
        known = {wnid: i for i, wnid in enumerate(ImageNetInfo().label_names())}
        for folder in folders:
            if folder not in known:
                raise PmqError(f"folder {folder!r} in {str(root)!r} is no class of ImageNet-1k; remove or rename it")
        return known
    if len(folders) == num_classes:
        from timm.data.readers.reader_image_folder import natural_key

        return {folder: i for i, folder in enumerate(sorted(folders, key=natural_key))}
    message(f"{str(root)!r} has {len(folders)} class folders, the model {num_classes} classes: no top-1, only agreement and KL")
    return {}


def make_transform(info: ModelInfo, crop_pct: float | None) -> Any:
    """Build timm's evaluation transform of a model."""
    from timm.data import create_transform

    config = {k: tuple(v) if isinstance(v, list) else v for k, v in info.data_config.items()}
    if crop_pct is not None:
        config["crop_pct"] = crop_pct
    return create_transform(**config, is_training=False)


def folder_source(root: Path, info: ModelInfo, crop_pct: float | None, workers: int) -> ImageSource:
    """Open a folder of class folders."""
    tree = ImageTree(root, info.num_classes, make_transform(info, crop_pct))
    return ImageSource(tree, repr(str(root)), workers)


def timm_source(name: str, split: str, info: ModelInfo, crop_pct: float | None, workers: int) -> ImageSource:
    """Open one of timm's datasets, such as ``torch/cifar10`` or ``hfds/user/name``, below ``--data ROOT::NAME`` or here."""
    from timm.data import create_dataset

    root, _, spec = name.rpartition("::")
    try:
        dataset = create_dataset(spec, root=root or None, split=split, download=False)
    except Exception as error:  # whatever the dataset's own library raises
        raise PmqError(f"timm cannot open dataset {spec!r}, split {split!r}: {one_line(error)}; see --data and --split") from None
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise PmqError(f"dataset {spec!r} can only be streamed; calibration draws images: use hfds/, torch/ or a folder")
    dataset.transform = make_transform(info, crop_pct)
    return ImageSource(dataset, repr(spec), workers)
