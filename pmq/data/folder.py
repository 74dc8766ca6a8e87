"""Image folders and timm's datasets, preprocessed as timm says the model wants it."""

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
from pmq.data.classes import UNTOLD, ClassRule, number_classes, told_apart
from pmq.data.files import Found, find_images
from pmq.data.source import ImageSource
from pmq.models.torchvision_ops import ensure_torchvision

Transform = Callable[[Image.Image], Tensor]


class Preprocess:
    """timm's evaluation transform of a model, on images of the model's number of channels.

    Of one or three channels they are pictures, of others arrays (:mod:`pmq.core.array`), which are normalised alone.

    Attributes:
        ends: of the names of files that are such images.
    """

    def __init__(self, info: ModelInfo, crop_pct: float | None) -> None:
        config = {k: tuple(v) if isinstance(v, list) else v for k, v in info.data_config.items()}
        if "mean" not in config or "std" not in config:
            raise PmqError(
                f"model {info.name!r} does not say how its images are prepared; give --mean and --std, and --interpolation and "
                "--crop-pct where they are not bicubic and 0.875"
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
                counts = f"mean and std {len(mean)} and {len(std)} figures"
                raise PmqError(f"images have {self.size[0]} channels, {counts}; give as many")
            self._mean, self._std = mean, std

    def __call__(self, image: Image.Image) -> Tensor:
        """Convert and transform.

        Raises:
            OSError: the picture is damaged, or the model takes none.
        """
        if not self.of_pictures:
            raise OSError(f"it is a picture; the model takes images of {self.size[0]} channels, from {ARRAY} files")
        return self.transform(converted(image, self.mode))

    def read(self, path: str) -> Tensor:
        """Read a file ``(C, H, W)``.

        Raises:
            OSError: it is damaged, or no such image.
        """
        if self.of_pictures:
            with open_picture(path) as image:
                return self(image)
        return (torch.from_numpy(load_array(path, self.size)).movedim(-1, 0) - self._mean) / self._std


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Image files, each with its label (-1: unknown). Subclasses say which they are."""

    def __init__(self, files: Sequence[str], labels: Sequence[int], preprocess: Preprocess) -> None:
        self.files, self.labels, self.preprocess = files, labels, preprocess

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.preprocess.read(self.files[index]), self.labels[index]

    def __len__(self) -> int:
        return len(self.files)


class ImageTree(ImageFiles):
    """Images in class folders.

    :func:`pmq.data.classes.number_classes` tells which class each folder is; labels that it cannot tell are -1. Folders
    without images are counted where only then there is one for each class.

    Raises:
        PmqError: no images, or a WordNet id that ImageNet-1k does not have.
    """

    def __init__(self, root: Path, num_classes: int, preprocess: Preprocess, rule: ClassRule = UNTOLD) -> None:
        _timm_data()
        where, found = repr(str(root)), find_images(root, preprocess.ends)
        others = f"{len(found.others)} files that are no images, as {found.others[0]!r}" if found.others else ""
        if not found.images:
            there = f", only {others}" if others else ""
            kind = "images" if preprocess.of_pictures else f"{ARRAY} files"
            raise PmqError(f"no {kind} below {where}{there}; give a folder with one folder of images for each class")
        if others:
            message(f"left out: {others}")
        self.classes = number_classes(_class_names(found, num_classes, where), num_classes, rule, where)
        labels = [-1 if name is None else self.classes.index.get(name, -1) for _, name in found.images]
        super().__init__([path for path, _ in found.images], labels, preprocess)


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
    """Timm's data module, importable on any machine."""
    ensure_torchvision()
    import timm.data

    return timm.data


def _class_names(found: Found, num_classes: int, where: str) -> set[str]:
    """Names of folders that stand for classes."""
    names = {name for _, name in found.images if name is not None}
    whole = names.union(found.empty)
    counted = len(names) != told_apart(num_classes) == len(whole)
    if found.empty:
        said = "counted" if counted else "not counted"
        message(f"{where} has folders without images, {said} as classes, as {found.empty[0]!r}")
    if names and (outside := sum(name is None for _, name in found.images)):
        message(f"{where} has {outside} images in no class folder: they have no label")
    return whole if counted else names


def folder_source(root: Path, info: ModelInfo, crop_pct: float | None, workers: int, rule: ClassRule = UNTOLD) -> ImageSource:
    """Open a folder of class folders."""
    tree = ImageTree(root, info.num_classes, Preprocess(info, crop_pct), rule)
    return ImageSource(tree, repr(str(root)), workers, tree.classes)


def timm_source(
    name: str,
    split: str,
    info: ModelInfo,
    crop_pct: float | None,
    workers: int,
    rule: ClassRule = UNTOLD,
    columns: Mapping[str, str] | None = None,
) -> ImageSource:
    """Open one of timm's datasets, such as ``torch/cifar10`` or ``hfds/user/name``; ``ROOT::torch/cifar10`` says where."""
    root, _, spec = name.rpartition("::")
    try:
        dataset = _timm_data().create_dataset(spec, root=root or None, split=split, download=False, **(columns or {}))
    except Exception as error:  # whatever the dataset's own library raises
        hint = "see --data and --split"
        raise PmqError(f"timm cannot open dataset {spec!r}, split {split!r}: {one_line(error)}; {hint}") from None
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise PmqError(f"dataset {spec!r} can only be streamed; calibration draws images: use hfds/, torch/ or a folder")
    dataset.transform = Preprocess(info, crop_pct)
    if hasattr(dataset, "input_img_mode"):
        dataset.input_img_mode = ""  # timm would convert pictures first, which makes all that 16 bits have above 255 white
    names = getattr(dataset, "class_to_idx", None) or getattr(getattr(dataset, "reader", None), "class_to_idx", None)
    classes = None
    if names:  # where a dataset does not name its classes, its labels are taken for the model's
        by_number = sorted(names, key=lambda name: names[name])
        classes = number_classes(by_number, info.num_classes, rule, repr(spec), ordered=True)
        dataset = _Relabelled(dataset, {names[name]: number for name, number in classes.index.items()})
    return ImageSource(dataset, repr(spec), workers, classes)
