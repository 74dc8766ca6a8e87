"""Task of a model, which defines the meaning of its outputs: as requested, or derived from its number of classes."""

from __future__ import annotations

from torch import Tensor, nn

from pmq.core.errors import PmqError
from pmq.core.progress import message
from pmq.core.task import AUTO, Task


def set_task(model: nn.Module, output: Tensor, requested: str) -> Task:
    """Return the task of a model and set its ``num_classes`` in place, to fit its ``output`` ``(1, ...)``.

    Raises:
        PmqError: the requested task is unknown, or the outputs do not fit it.
    """
    fits = output.ndim >= 3 if requested == "dense" else output.ndim == 2
    width = output.shape[1] if fits else None
    declared = getattr(model, "num_classes", None)
    classes = declared if isinstance(declared, int) else None
    if classes is None and requested not in (AUTO, "features"):
        classes = width
    if classes is None and requested == AUTO:
        message(
            "the model does not state its number of classes, so its outputs are treated as features; "
            "pass `task=classification` if they are logits"
        )
    if classes and width is not None and width != classes:
        message(f"the model states {classes} classes but has {width} outputs; pmq uses {width} classes")
        classes = width
    if declared != classes:
        model.num_classes = classes or 0  # type: ignore[assignment]
    task = Task.of(requested, classes or 0)
    if task.name != "features" and width is None:
        raise PmqError(
            f"outputs of shape {tuple(output.shape)} for one image do not fit task {task.name!r}, which needs "
            f"{'(B, C, ...)' if task.name == 'dense' else '(B, C)'}; "
            "make the model return logits, or pass `task=features`"
        )
    if requested == AUTO and task.name == "binary":
        message("the model's single output is treated as the logit of a decision; pass `task=regression` if it is a value")
    return task
