"""Image folders and timm's datasets, preprocessed by timm's evaluation transform of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from pmq.core.allocation import ModelInfo
from pmq.core.array import ARRAY, PICTURES, ends_of, load_array
from pmq.core.errors import PmqError, one_line
from pmq.core.picture import converted, open_picture
from pmq.core.progress import message
from pmq.data.classes import DEFAULT_RULE, ClassRule, distinct_classes, number_classes
from pmq.data.files import FolderListing, find_images
from pmq.data.source import ImageSource
from pmq.models.torchvision_ops import ensure_torchvision

Transform = Callable[[Image.Image], Tensor]


class Preprocess:
    """Preprocessing of images with the model's number of channels.

    Images with one or three channels are pictures, which timm's evaluation transform prepares. Others are arrays
    (:mod:`pmq.core.array`), which are only normalised.

    Attributes:
        ends: suffixes of the files that are such images.
    """

    def __init__(self, info: ModelInfo, crop_pct: float | None) -> None:
        config = {k: tuple(v) if isinstance(v, list) else v for k, v in info.data_config.items()}
        if "mean" not in config or "std" not in config:
            raise PmqError(
                f"model {info.name!r} does not state how its images are prepared; pass `mean` and `std`, and `interpolation` and "
                "`crop_pct` where they are not bicubic and 0.875"
            )
        if crop_pct is not None:
            config["crop_pct"] = crop_pct
        self.size = config["input_size"]
        self.of_pictures = self.size[0] in PICTURES
        self.ends = ends_of(self.size[0])
        self.mode = "L" if self.size[0] == 1 else "RGB"
        if self.of_pictures:
            self.transform: Transform = _timm_data().create_transform(**config, is_training=False)
        else:
            mean, std = (torch.tensor(config[name]).reshape(-1, 1, 1) for name in ("mean", "std"))
            if not len(mean) == len(std) == self.size[0]:
                counts = f"mean has {len(mean)} values and std {len(std)}"
                raise PmqError(f"images have {self.size[0]} channels, but {counts}; pass one value per channel")
            self._mean, self._std = mean, std

    def __call__(self, image: Image.Image) -> Tensor:
        """Convert and transform a picture into ``(C, H, W)``.

        Raises:
            OSError: the picture is damaged, or the model takes arrays instead of pictures.
        """
        if not self.of_pictures:
            raise OSError(f"it is a picture, but the model takes images of {self.size[0]} channels from {ARRAY} files")
        return self.transform(converted(image, self.mode))

    def read(self, path: str) -> Tensor:
        """Read and transform a file into ``(C, H, W)``.

        Raises:
            OSError: the file is damaged or is not an image of the model's kind.
        """
        if self.of_pictures:
            with open_picture(path) as image:
                return self(image)
        return (torch.from_numpy(load_array(path, self.size)).movedim(-1, 0) - self._mean) / self._std


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Dataset of image files with their labels (-1: unknown); subclasses provide the files."""

    def __init__(self, files: Sequence[str], labels: Sequence[int], preprocess: Preprocess) -> None:
        self.files, self.labels, self.preprocess = files, labels, preprocess

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.preprocess.read(self.files[index]), self.labels[index]

    def __len__(self) -> int:
        return len(self.files)


class ImageTree(ImageFiles):
    """Images in class folders.

    :func:`pmq.data.classes.number_classes` determines the class of each folder; unknown labels are -1. Folders without
    images count as classes where only then there is one folder for each class of the model.

    Raises:
        PmqError: there are no images, or a WordNet id is not in ImageNet-1k.
    """

    def __init__(self, root: Path, num_classes: int, preprocess: Preprocess, rule: ClassRule = DEFAULT_RULE) -> None:
        _timm_data()
        where, listing = repr(str(root)), find_images(root, preprocess.ends)
        other_files = ""
        if listing.other_files:
            other_files = f"{len(listing.other_files)} files that are not images, such as {listing.other_files[0]!r}"
        if not listing.images:
            only = f", only {other_files}" if other_files else ""
            kind = "images" if preprocess.of_pictures else f"{ARRAY} files"
            raise PmqError(f"no {kind} below {where}{only}; choose a folder with one folder of images for each class")
        if other_files:
            message(f"skipped {other_files}")
        self.classes = number_classes(_class_names(listing, num_classes, where), num_classes, rule, where)
        labels = [-1 if name is None else self.classes.index.get(name, -1) for _, name in listing.images]
        super().__init__([path for path, _ in listing.images], labels, preprocess)


class _Relabelled(Dataset[tuple[Tensor, int]]):
    """A dataset whose labels are mapped to the model's classes."""

    def __init__(self, dataset: Any, classes: dict[int, int]) -> None:
        self.dataset, self.classes = dataset, classes

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.dataset[index]
        return image, self.classes.get(int(label), -1)

    def __len__(self) -> int:
        return len(self.dataset)


def _timm_data() -> Any:
    """Import timm's data module, also where torchvision's compiled operators cannot load."""
    ensure_torchvision()
    import timm.data

    return timm.data


def _class_names(listing: FolderListing, num_classes: int, where: str) -> set[str]:
    """Return the names of the folders that are classes."""
    names = {name for _, name in listing.images if name is not None}
    all_names = names.union(listing.empty)
    counted = len(names) != distinct_classes(num_classes) == len(all_names)
    if listing.empty:
        treatment = "counted" if counted else "not counted"
        message(f"{where} has folders without images, {treatment} as classes, such as {listing.empty[0]!r}")
    if names and (outside := sum(name is None for _, name in listing.images)):
        message(f"{where} has {outside} images outside class folders, which have no label")
    return all_names if counted else names


def folder_source(
    root: Path, info: ModelInfo, crop_pct: float | None, workers: int, rule: ClassRule = DEFAULT_RULE
) -> ImageSource:
    """Open a folder of class folders."""
    tree = ImageTree(root, info.num_classes, Preprocess(info, crop_pct), rule)
    return ImageSource(tree, repr(str(root)), workers, tree.classes)


def timm_source(
    name: str,
    split: str,
    info: ModelInfo,
    crop_pct: float | None,
    workers: int,
    rule: ClassRule = DEFAULT_RULE,
    columns: Mapping[str, str] | None = None,
) -> ImageSource:
    """Open one of timm's datasets, such as ``torch/cifar10``, ``hfds/user/name`` or ``ROOT::torch/cifar10`` below a folder."""
    root, _, spec = name.rpartition("::")
    try:
        dataset = _timm_data().create_dataset(spec, root=root or None, split=split, download=False, **(columns or {}))
    except Exception as error:  # whatever the dataset's own library raises
        hint = "check `data` and `split`"
        raise PmqError(f"timm cannot open dataset {spec!r}, split {split!r}: {one_line(error)}; {hint}") from None
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise PmqError(
            f"dataset {spec!r} can only be streamed, but calibration draws images at random; use hfds/, torch/ or a folder"
        )
    dataset.transform = Preprocess(info, crop_pct)
    if hasattr(dataset, "input_img_mode"):
        dataset.input_img_mode = ""  # timm's own conversion would clip 16-bit values at 255
    names = getattr(dataset, "class_to_idx", None) or getattr(getattr(dataset, "reader", None), "class_to_idx", None)
    classes = None
    if names:  # the labels of a dataset without class names are used as the model's outputs
        by_number = sorted(names, key=lambda name: names[name])
        classes = number_classes(by_number, info.num_classes, rule, repr(spec), ordered=True)
        dataset = _Relabelled(dataset, {names[name]: number for name, number in classes.index.items()})
    return ImageSource(dataset, repr(spec), workers, classes)
