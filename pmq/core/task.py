"""The task of a model: the meaning of its outputs, which determines how their errors are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pmq.core.errors import PmqError

TaskName = Literal["classification", "binary", "regression", "features", "multilabel", "dense"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
#: ``loss(reference, output)``: two tensors ``(B, ...)`` -> ``(B,)``, the error of each output against FP32's
Loss = Callable[[Any, Any], Any]
#: the default, which derives the task from the number of outputs
AUTO = "auto"


@dataclass(frozen=True)
class Task:
    """A model's task.

    Attributes:
        name: ``classification``: several logits, of which the softmax is taken; ``binary``: one logit, of which the logistic
            function is; ``regression``: values, whose squared error counts beside the mean square of FP32's;
            ``features``: vectors, whose squared error counts beside the square of FP32's own, image by image;
            ``multilabel``: a logit for each label, which is there or not whatever the others are: divergences of labels add
            up; ``dense``: logits of several classes at each position, ``(B, C, ...)``, of which the softmax is taken:
            divergences of positions are averaged.
        scale: mean square of FP32's outputs, for ``regression``; 1 where errors are compared with one another only.
        loss: what measures errors in place of the task's own figure; what it gives for FP32's own outputs is taken off.

    >>> Task.of("auto", num_classes=1)
    Task(name='binary', scale=1.0, loss=None)
    """

    name: TaskName = "classification"
    scale: float = 1.0
    loss: Loss | None = None

    @property
    def decides(self) -> bool:
        """Whether outputs are logits, so that agreement of decisions and KL divergence are defined."""
        return self.name in ("classification", "binary", "multilabel", "dense")

    @property
    def once(self) -> bool:
        """Whether each image has one decision."""
        return self.name in ("classification", "binary")

    @property
    def error_name(self) -> str:
        """Name of the error metric: ``kl``, or ``feature_error``, which is also that of a custom loss."""
        return "kl" if self.decides and self.loss is None else "feature_error"

    @classmethod
    def of(cls, task: str, num_classes: int) -> Task:
        """Return the task of a name, or for ``auto`` the one that the number of classes suggests.

        Raises:
            PmqError: the task is unknown, or a model with so many classes cannot have it.
        """
        if task != AUTO and task not in TASKS:
            raise PmqError(f"task {task!r} is not one of {AUTO}, {', '.join(TASKS)}")
        fitting = [name for name in TASKS if _fits(name, num_classes)]
        name = fitting[0] if task == AUTO else next((n for n in fitting if n == task), None)
        if name is None:
            outputs = f"{num_classes} output(s)" if num_classes else "no classifier"
            raise PmqError(f"task {task!r} does not fit a model with {outputs}; choose one of {', '.join(fitting)}")
        return cls(name)


_ERRORS: dict[str, str] = {
    "classification": "KL divergence of the softmax",
    "binary": "KL divergence of the logistic function",
    "regression": "squared, relative to the mean square of FP32's values",
    "features": "squared, relative to each vector's own square",
    "multilabel": "KL divergence of each label, summed",
    "dense": "KL divergence of the softmax, mean over positions",
}


def task_line(name: TaskName, asked: str, outputs: int) -> str:
    """Return a line that states how errors are measured, and why.

    >>> task_line("classification", "auto", 10)
    'errors: KL divergence of the softmax (task classification, for the model has 10 outputs; `task` changes it)'
    >>> task_line("regression", "auto", 1)
    "errors: squared, relative to the mean square of FP32's values (task regression, as the allocation was searched)"
    """
    count = f"{outputs} output{'s' * (outputs != 1)}" if outputs else "no classifier"
    if asked != AUTO:
        why = "as asked"
    elif Task.of(AUTO, outputs).name == name:
        why = f"for the model has {count}; `task` changes it"
    else:
        why = "as the allocation was searched"
    return f"errors: {_ERRORS[name]} (task {name}, {why})"


def _fits(name: TaskName, num_classes: int) -> bool:
    """Whether a model with so many outputs of its classifier, 0 without one, can have a task."""
    return {
        "classification": num_classes > 1,
        "binary": num_classes == 1,
        "regression": num_classes > 0,
        "features": True,
        "multilabel": num_classes > 1,
        "dense": num_classes > 1,
    }[name]


CLASSIFICATION = Task()
