"""What a model's outputs mean: as whoever runs us says, or as the model tells by its number of classes."""

from __future__ import annotations

from torch import Tensor, nn

from pmq.core.errors import PmqError
from pmq.core.progress import message
from pmq.core.task import AUTO, Task


def set_task(model: nn.Module, output: Tensor, asked: str) -> Task:
    """Give the task of a model; its ``num_classes`` is set, in place, to what its ``output`` ``(1, ...)`` shows.

    Raises:
        PmqError: there is no such task, or the outputs cannot have it.
    """
    fits = output.ndim >= 3 if asked == "dense" else output.ndim == 2
    width = output.shape[1] if fits else None
    told = getattr(model, "num_classes", None)
    classes = told if isinstance(told, int) else None
    if classes is None and asked not in (AUTO, "features"):
        classes = width
    if classes is None and asked == AUTO:
        message("the model does not tell its number of classes: outputs are taken for features; task classification if not")
    if classes and width is not None and width != classes:
        message(f"the model tells of {classes} classes, its outputs are {width}: they count")
        classes = width
    if told != classes:
        model.num_classes = classes or 0  # type: ignore[assignment]
    task = Task.of(asked, classes or 0)
    if task.name != "features" and width is None:
        raise PmqError(
            f"outputs of shape {tuple(output.shape)} for one image cannot have task {task.name!r}, which needs "
            f"{'(B, C, ...)' if task.name == 'dense' else '(B, C)'}; "
            "make the model give logits, or ask for task features"
        )
    if asked == AUTO and task.name == "binary":
        message("the model's one output is taken for the logit of a decision; --task regression if it is a value")
    return task
