"""Numbering of the classes of a data set by the outputs of a model: by name where possible, else by the order of folders."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import StrictInt

from pmq.core.errors import PmqError, one_line
from pmq.core.files import quoted, read_text
from pmq.core.progress import message
from pmq.core.validation import shown, validated
from pmq.models.torchvision_ops import ensure_torchvision

WNID = re.compile(r"n\d{8}")
#: orders of folders whose names the model does not know: as torchvision's ImageFolder sorts them, or with numbers by value
ORDERS = ("imagefolder", "natural")


@dataclass(frozen=True)
class ClassRule:
    """Information about a model's classes that decides how those of a data set are numbered.

    Attributes:
        names: class names of the model's outputs, in their order; empty where the model has none.
        file: a class map, which takes precedence over all else, see :func:`read_class_map`.
        order: order of folders whose names the model does not know, see ``ORDERS``.
    """

    names: tuple[str, ...] = ()
    file: Path | None = None
    order: str = ORDERS[0]

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise PmqError(f"class order {self.order!r} is not one of {', '.join(ORDERS)}")


_MAP: Any = dict[str, StrictInt] | list[str]
#: rule without any information about a model's classes
DEFAULT_RULE = ClassRule()


@dataclass(frozen=True)
class ClassNumbering:
    """Output of the model for each class of a data set; unknown classes are missing.

    Attributes:
        index: class name in the data set -> number of the output.
        names: names of all outputs, where only the folders name them.
        other: the same as ``index`` for the other order of folders, where only their order decides and the orders differ.
        other_order: name of that other order.
    """

    index: dict[str, int]
    names: tuple[str, ...] = ()
    other: dict[str, int] | None = None
    other_order: str = ""


def number_classes(
    classes: Iterable[str], num_classes: int, rule: ClassRule, where: str, ordered: bool = False
) -> ClassNumbering:
    """Determine the output of the model for each class of a data set, and print how it was determined.

    The first of these that applies decides: the class map, the WordNet ids of ImageNet, the class names of the model, and,
    if there is one class for each output (two for a single logit), the order of the classes. That is the order in which they
    are passed if they are ``ordered``, else the order of the rule.

    Args:
        classes: class names of the data set.
        num_classes: number of outputs of the model.
        rule: information about the model's classes.
        where: name of the data set in messages.
        ordered: whether the order of ``classes`` is meaningful.

    Raises:
        PmqError: a class is missing in the class map or in ImageNet, or only some classes are classes of the model.
    """
    folders = list(classes) if ordered else sorted(classes)
    if rule.file is not None:
        return _from_map(folders, read_class_map(rule.file), f"class map {quoted(rule.file)}", where, num_classes)
    if folders and num_classes == 1000 and all(WNID.fullmatch(name) for name in folders):
        return _from_map(folders, _imagenet(), "ImageNet-1k", where, num_classes)
    by_name = _matched(folders, rule.names, where)
    if by_name is not None:
        message(f"classes: matched {len(folders)} of the model's {len(rule.names)} classes by name")
        return ClassNumbering(by_name)
    outputs = distinct_classes(num_classes)
    if not folders and not outputs:
        return ClassNumbering({})
    if len(folders) != outputs:
        message(f"{where} has {len(folders)} classes, but the model has {outputs}: no top-1 accuracy, only agreement and KL")
        return ClassNumbering({})
    orders = {"imagefolder": folders, "natural": sorted(folders, key=_natural)}
    other_order = next(order for order in ORDERS if order != rule.order)
    names, other = (folders, folders) if ordered else (orders[rule.order], orders[other_order])
    if not ordered:
        sorting = "as torchvision's ImageFolder does" if rule.order == ORDERS[0] else "with numbers by value"
        message(f"classes: {outputs} folders, sorted by name {sorting}: {shown(names[0])}, {shown(names[1])}, ...")
    index = {name: number for number, name in enumerate(names)}
    if names == other:
        return ClassNumbering(index, tuple(names))
    return ClassNumbering(index, tuple(names), {name: number for number, name in enumerate(other)}, other_order)


def distinct_classes(num_classes: int) -> int:
    """Return how many classes a model with ``num_classes`` outputs distinguishes: two for a single logit."""
    return 2 if num_classes == 1 else num_classes


def read_class_map(path: Path) -> dict[str, int]:
    """Read the output number of each class from a class map.

    The file is a text file with one class per line in the order of the model's outputs, as in timm, or a JSON file with a
    list of the classes or an object of their numbers.

    Raises:
        PmqError: the file cannot be read, or lists a class twice.
    """
    label = f"class map {quoted(path)}"
    if path.suffix.lower() == ".json":
        try:
            content: Any = validated(_MAP, json.loads(read_text(path, "class map")), label)
        except (ValueError, RecursionError) as error:
            raise PmqError(f"{label} is not valid JSON: {one_line(error)}") from None
        if isinstance(content, dict):
            return content
        lines = content
    elif path.suffix.lower() in (".txt", ""):
        lines = [line.strip() for line in read_text(path, "class map").splitlines()]
    else:
        raise PmqError(f"{label} must be a .txt file with one class per line, or a .json file")
    index = {line: number for number, line in enumerate(lines)}
    if len(index) != len(lines):
        duplicate = next(line for number, line in enumerate(lines) if index[line] != number)
        raise PmqError(f"{label} lists {shown(duplicate)} twice; each class must have one number")
    return index


def _from_map(folders: Sequence[str], known: Mapping[str, int], source: str, where: str, num_classes: int) -> ClassNumbering:
    """Number folders by a map of all known classes, which messages call ``source``.

    Raises:
        PmqError: a folder is missing in the map, or its number exceeds the outputs of the model.
    """
    for folder in folders:
        if folder not in known:
            raise PmqError(f"folder {shown(folder)} in {where} is not a class of {source}; remove or rename it")
        if num_classes and known[folder] not in range(distinct_classes(num_classes)):
            raise PmqError(f"{source} gives {shown(folder)} the number {known[folder]}, but the model has {num_classes} outputs")
    message(f"classes: matched {len(folders)} classes of {source} by name")
    return ClassNumbering({folder: known[folder] for folder in folders})


def _imagenet() -> dict[str, int]:
    """Return the output number of each WordNet id of ImageNet-1k."""
    ensure_torchvision()
    from timm.data import ImageNetInfo

    return {wnid: number for number, wnid in enumerate(ImageNetInfo().label_names())}


def _matched(folders: Sequence[str], names: Sequence[str], where: str) -> dict[str, int] | None:
    """Return the output of each folder by the model's class names (or comma-separated synonyms); None if no folder matches."""
    known: dict[str, int | None] = {}
    for number, name in enumerate(names):
        for synonym in {_plain(name), *map(_plain, name.split(","))}:
            known[synonym] = number if known.get(synonym, number) == number else None  # ambiguous: a synonym of two classes
    index = {folder: known.get(_plain(folder)) for folder in folders}
    unknown = [folder for folder, number in index.items() if number is None]
    if len(unknown) == len(folders):
        return None
    if unknown:
        raise PmqError(
            f"folder {shown(unknown[0])} in {where} is not a class of the model, while other folders are; rename it or pass "
            "`class_map`"
        )
    numbers = {folder: number for folder, number in index.items() if number is not None}
    if len(set(numbers.values())) < len(numbers):
        raise PmqError(f"two folders in {where} are the same class of the model; pass `class_map`")
    return numbers


def _plain(name: str) -> str:
    """Normalise a name so that a label and a folder of the same class compare equal.

    >>> _plain("Golden_Retriever ") == _plain("golden retriever")
    True
    """
    return re.sub(r"[\s_\-./]+", " ", name).strip().casefold()


def _natural(name: str) -> tuple[Any, str]:
    ensure_torchvision()
    from timm.data.readers.reader_image_folder import natural_key

    return natural_key(name), name
