"""Which output of a model is which class of a data set: by names where there are any, else by the order of folders."""

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
#: orders of folders that no name tells of: as torchvision's ImageFolder sorts them, or with numbers by their value
ORDERS = ("imagefolder", "natural")


@dataclass(frozen=True)
class ClassRule:
    """What is known of a model's classes.

    Attributes:
        names: of the model's outputs, in their order; none where the model does not tell.
        file: a class map, which counts before all else: see :func:`read_class_map`.
        order: of folders that no name tells of, see ``ORDERS``.
    """

    names: tuple[str, ...] = ()
    file: Path | None = None
    order: str = ORDERS[0]

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise PmqError(f"class order {self.order!r} is not one of {', '.join(ORDERS)}")


_MAP: Any = dict[str, StrictInt] | list[str]
#: nothing is known of a model's classes
UNTOLD = ClassRule()


@dataclass(frozen=True)
class Numbered:
    """Classes of a data set by the number of the model's output; a class that is not known has none.

    Attributes:
        index: name in the data set -> output.
        names: of all outputs, where folders alone name them.
        other: as ``index`` in another order of folders, where nothing but their order tells and the orders differ.
        other_order: what that order is called.
    """

    index: dict[str, int]
    names: tuple[str, ...] = ()
    other: dict[str, int] | None = None
    other_order: str = ""


def number_classes(found: Iterable[str], num_classes: int, rule: ClassRule, where: str, ordered: bool = False) -> Numbered:
    """Tell which output each class of a data set is; a line says by what.

    In this order: the class map, WordNet ids of ImageNet's, the names that the model tells, and if there is one class for
    each output (two for a single logit) their order: the one in which they come if they are ``ordered``, else that of the rule.

    Raises:
        PmqError: the class map lacks one, some but not all are names of the model's classes, or no WordNet ids of ImageNet's.
    """
    folders = list(found) if ordered else sorted(found)
    if rule.file is not None:
        return _listed(folders, read_class_map(rule.file), f"class map {quoted(rule.file)}", where, num_classes)
    if folders and num_classes == 1000 and all(WNID.fullmatch(name) for name in folders):
        return _listed(folders, _imagenet(), "ImageNet-1k", where, num_classes)
    by_name = _matched(folders, rule.names, where)
    if by_name is not None:
        message(f"classes: {len(folders)} of the model's {len(rule.names)}, by their names")
        return Numbered(by_name)
    outputs = told_apart(num_classes)
    if not folders and not outputs:
        return Numbered({})
    if len(folders) != outputs:
        message(f"{where} has {len(folders)} classes, the model {outputs}: no top-1, only agreement and KL")
        return Numbered({})
    orders = {"imagefolder": folders, "natural": sorted(folders, key=_natural)}
    others = next(order for order in ORDERS if order != rule.order)
    taken, other = (folders, folders) if ordered else (orders[rule.order], orders[others])
    if not ordered:
        how = "as torchvision's ImageFolder sorts them" if rule.order == ORDERS[0] else "numbers in them by their value"
        message(f"classes: {outputs} folders in the order of their names, {how}: {shown(taken[0])}, {shown(taken[1])}, ...")
    index = {name: number for number, name in enumerate(taken)}
    if taken == other:
        return Numbered(index, tuple(taken))
    return Numbered(index, tuple(taken), {name: number for number, name in enumerate(other)}, others)


def told_apart(num_classes: int) -> int:
    """How many classes a model tells apart: a single logit tells two."""
    return 2 if num_classes == 1 else num_classes


def read_class_map(path: Path) -> dict[str, int]:
    """Read the number of each class: a text file with a class a line, in the order of the model's outputs, as timm has it.

    Or JSON: a list of them, or an object of their numbers.

    Raises:
        PmqError: it cannot be read, or a class stands in it twice.
    """
    what = f"class map {quoted(path)}"
    if path.suffix.lower() == ".json":
        try:
            told: Any = validated(_MAP, json.loads(read_text(path, "class map")), what)
        except (ValueError, RecursionError) as error:
            raise PmqError(f"{what} is no JSON: {one_line(error)}") from None
        if isinstance(told, dict):
            return told
        lines = told
    elif path.suffix.lower() in (".txt", ""):
        lines = [line.strip() for line in read_text(path, "class map").splitlines()]
    else:
        raise PmqError(f"{what} must be a .txt file with one class a line, or a .json file")
    index = {line: number for number, line in enumerate(lines)}
    if len(index) != len(lines):
        twice = next(line for number, line in enumerate(lines) if index[line] != number)
        raise PmqError(f"{what} has {shown(twice)} twice; each class has one number")
    return index


def _listed(folders: Sequence[str], known: Mapping[str, int], what: str, where: str, num_classes: int) -> Numbered:
    for folder in folders:
        if folder not in known:
            raise PmqError(f"folder {shown(folder)} in {where} is no class of {what}; remove or rename it")
        if num_classes and known[folder] not in range(told_apart(num_classes)):
            raise PmqError(f"{what} numbers {shown(folder)} {known[folder]}, and the model has {num_classes} outputs")
    message(f"classes: {len(folders)} of {what}, by their names")
    return Numbered({folder: known[folder] for folder in folders})


def _imagenet() -> dict[str, int]:
    ensure_torchvision()
    from timm.data import ImageNetInfo

    return {wnid: number for number, wnid in enumerate(ImageNetInfo().label_names())}


def _matched(folders: Sequence[str], names: Sequence[str], where: str) -> dict[str, int] | None:
    """Folders by the model's names of its classes, or by one of several that it gives with commas; nothing if none is one."""
    known: dict[str, int | None] = {}
    for number, name in enumerate(names):
        for each in {_plain(name), *map(_plain, name.split(","))}:
            known[each] = number if known.get(each, number) == number else None  # a synonym of two classes tells of none
    index = {folder: known.get(_plain(folder)) for folder in folders}
    unknown = [folder for folder, number in index.items() if number is None]
    if len(unknown) == len(folders):
        return None
    if unknown:
        raise PmqError(
            f"folder {shown(unknown[0])} in {where} is none of the model's classes, as others are; rename it, or give --class-map"
        )
    found = {folder: number for folder, number in index.items() if number is not None}
    if len(set(found.values())) < len(found):
        raise PmqError(f"two folders in {where} are the same class of the model; give --class-map")
    return found


def _plain(name: str) -> str:
    """A name without what differs between a label and a folder of the same class.

    >>> _plain("Golden_Retriever ") == _plain("golden retriever")
    True
    """
    return re.sub(r"[\s_\-./]+", " ", name).strip().casefold()


def _natural(name: str) -> tuple[Any, str]:
    ensure_torchvision()
    from timm.data.readers.reader_image_folder import natural_key

    return natural_key(name), name
