"""Labels of images from what a table or an archive says of each: the number of an output, or the name of a class."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pmq.core.errors import PmqError
from pmq.data.classes import ClassRule, Numbered, number_classes, told_apart

_NUMBER = re.compile(r"-?\d{1,9}")


def label_all(targets: Sequence[str], num_classes: int, rule: ClassRule, what: str) -> tuple[list[int], Numbered | None]:
    """Give the label of each image (-1: unknown), and how names are numbered, if they are names.

    Whole numbers are outputs of the model, unless there is a class map; all else is numbered by
    :func:`pmq.data.classes.number_classes`.

    Raises:
        PmqError: a number is none of the model's outputs; or the names cannot be numbered.
    """
    if rule.file is None and all(_NUMBER.fullmatch(target) for target in targets):
        numbers = [int(target) for target in targets]
        outside = [number for number in numbers if num_classes and number >= told_apart(num_classes)]
        if outside:
            raise PmqError(f"{what}: class {outside[0]} is none of the model's {num_classes} outputs")
        return numbers, None
    classes = number_classes(set(targets), num_classes, rule, what)
    return [classes.index.get(target, -1) for target in targets], classes
