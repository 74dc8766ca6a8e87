"""The students of a distillation: models with fewer channels or bits, which learn the outputs of the FP32 model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from torch import nn

from pmq.core import Allocation, PmqError
from pmq.core.recipe import Recipe
from pmq.graph import captured
from pmq.models.distil import Penalty
from pmq.models.weights import both_file, weights_sha256
from pmq.pipeline.allocation import load_quantized, with_parameters
from pmq.pipeline.pruned_model import load_pruned, shaped_like
from pmq.pipeline.subject import Subject
from pmq.quant.finetuning import QuantizedStudent

#: weight of the oscillation at the end of the training
DAMPING = 1e-3


class Student(Protocol):
    """A model in training.

    Attributes:
        undecayed: names of parameters without weight decay.
        penalty: further term of the loss, or ``None``.
    """

    undecayed: Collection[str]
    penalty: Penalty | None

    @property
    def module(self) -> nn.Module:
        """The model that is trained."""
        ...

    def simulation(self) -> nn.Module:
        """Return the module that computes what the allocation stands for, with the present parameters."""
        ...

    def allocation(self, epochs: int) -> Allocation:
        """Return the allocation with the present parameters, which were trained for some epochs."""
        ...


class PrunedStudent:
    """A pruned model in FP32; see :class:`Student`."""

    def __init__(self, pruned: Allocation, subject: Subject) -> None:
        self._pruned, self._subject = pruned, subject
        self.module = load_pruned(pruned, subject.module).to(next(subject.model.parameters()).device)
        self.undecayed: Collection[str] = ()
        self.penalty: Penalty | None = None

    def simulation(self) -> nn.Module:
        """Return the model itself."""
        return self.module

    def allocation(self, epochs: int) -> Allocation:
        """Return the pruned model with its present parameters."""
        assert self._pruned.pruning is not None
        size = self._subject.info.data_config["input_size"]
        parameter = next(self.module.parameters())
        plan = self._pruned.pruning.model_copy(update={"weights_sha256": weights_sha256(self.module)})
        tensors = both_file(self.module, captured(self.module, parameter.new_zeros(1, *size)))
        return self._pruned.model_copy(update={"pruning": plan}).with_tensors(tensors)


class QuantizedModelStudent:
    """A model with the bits of an allocation, pruned or not; see :class:`Student`."""

    def __init__(self, start: Allocation, subject: Subject) -> None:
        shaped = shaped_like(subject, start)
        self._start, self.module = start, QuantizedStudent(shaped.model, shaped.inventory, load_quantized(shaped, start))
        self.undecayed: Collection[str] = self.module.names_of_grids
        self.penalty: Penalty | None = Penalty(self.module.oscillation, DAMPING) if self.module.has_weights else None

    def simulation(self) -> nn.Module:
        """Return the simulated model, as :func:`pmq.simulate` builds it."""
        return self.module.simulation()

    def allocation(self, epochs: int) -> Allocation:
        """Return the allocation with its present tensors and grids; its metrics were those of the start."""
        recipe: Recipe = self._start.recipe
        recipe = recipe.model_copy(update={"finetune": recipe.finetune + epochs})
        return with_parameters(self._start.model_copy(update={"recipe": recipe, "metrics": {}}), self.module.quantized())


def check_trainable(allocation: Allocation) -> None:
    """Raise unless an allocation describes a model that can be trained."""
    if allocation.pruning is None and allocation.is_fp32:
        raise PmqError("this allocation is no pruned model and all in FP32; fine-tuning is for models of fewer channels or bits")
    if allocation.whole:
        raise PmqError(
            "this allocation has bits for every tensor between operators, which cannot be fine-tuned; "
            "fine-tune one of a space of layers and operands, such as `space=default`"
        )
    if allocation.patches is not None:
        raise PmqError(
            "this allocation has bits of single patches, which cannot be fine-tuned; "
            "fine-tune the allocation without them, and run `pmq patches` on the result"
        )


def student_of(allocation: Allocation, subject: Subject) -> Student:
    """Return the student that an allocation describes, of a subject that is the FP32 model.

    Raises:
        PmqError: a part of the allocation does not fit the model, or its tensors are missing.
    """
    if allocation.is_fp32:
        return PrunedStudent(allocation, subject)
    return QuantizedModelStudent(allocation, subject)
