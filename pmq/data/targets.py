"""Labels of images from the targets in a table or an archive: numbers of outputs or names of classes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pmq.core.errors import PmqError
from pmq.data.classes import ClassNumbering, ClassRule, distinct_classes, number_classes

_NUMBER = re.compile(r"-?\d{1,9}")


def label_all(targets: Sequence[str], num_classes: int, rule: ClassRule, where: str) -> tuple[list[int], ClassNumbering | None]:
    """Return the label of each image (-1: unknown) and, if targets are names, their numbering.

    Integers are outputs of the model, unless there is a class map; otherwise targets are names, numbered by
    :func:`pmq.data.classes.number_classes`. Messages call the data set ``where``.

    Raises:
        PmqError: a number is not an output of the model, or the names cannot be numbered.
    """
    if rule.file is None and all(_NUMBER.fullmatch(target) for target in targets):
        numbers = [int(target) for target in targets]
        outside = [number for number in numbers if num_classes and number >= distinct_classes(num_classes)]
        if outside:
            raise PmqError(f"{where}: class {outside[0]} is not one of the model's {num_classes} outputs")
        return numbers, None
    classes = number_classes(set(targets), num_classes, rule, where)
    return [classes.index.get(target, -1) for target in targets], classes
