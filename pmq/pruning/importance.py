"""Importances of channels, computed by torch-pruning on groups of layers that lose a channel together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pmq.core.progress import track
from pmq.core.registry import Registry
from pmq.core.task import CLASSIFICATION, Task
from pmq.pruning.groups import Groups, require_torch_pruning
from pmq.pruning.losses import BATCH, RowWeights, predicted_label_loss, sampled_label_loss
from pmq.pruning.units import Unit

Scores = dict[str, Tensor]  # unit -> (size,), the larger the more important


class Importance(ABC):
    """Importance of the channels of units."""

    name: ClassVar[str]

    @abstractmethod
    def score(
        self,
        model: nn.Module,
        units: Sequence[Unit],
        images: Tensor,
        task: Task = CLASSIFICATION,
        seed: int = 0,
        weights: RowWeights | None = None,
    ) -> Scores:
        """Score every channel of every unit: unit -> ``(size,)``, the larger the more important.

        Args:
            model: in evaluation mode.
            units: prunable units of the model.
            images: ``(N, C, H, W)``, without labels.
            task: meaning of the outputs.
            seed: seed of sampled labels and of random scores.
            weights: :func:`pmq.pruning.losses.row_weights` of the units' last layers on the images; computed if needed and None.
        """


class GroupImportance(Importance):
    """Importance of torch-pruning, on the groups of its dependency graph; subclasses implement ``_importance``."""

    def score(
        self,
        model: nn.Module,
        units: Sequence[Unit],
        images: Tensor,
        task: Task = CLASSIFICATION,
        seed: int = 0,
        weights: RowWeights | None = None,
    ) -> Scores:
        """Score every channel, see :meth:`Importance.score`."""
        groups, generator = Groups(model), torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # torch-pruning draws from the global generator
            importance = self._importance(model, images, task, generator)
            try:
                return {unit.name: importance(groups.group(unit)).detach().double().cpu() for unit in units}
            finally:
                model.zero_grad(set_to_none=True)

    @abstractmethod
    def _importance(self, model: nn.Module, images: Tensor, task: Task, generator: torch.Generator) -> Any:
        """Return a callable that scores a group, after the passes over the images that it needs."""


IMPORTANCES: Registry[Importance] = Registry("importance")


def register(cls: type[Importance]) -> type[Importance]:
    """Register an importance under its name."""
    IMPORTANCES.add(cls.name, cls())
    return cls


@register
class Magnitude(GroupImportance):
    """L2 norm of the weights that are removed with a channel (1608.08710)."""

    name = "magnitude"
    power: ClassVar[int] = 2

    def _importance(self, model: nn.Module, images: Tensor, task: Task, generator: torch.Generator) -> Any:
        return require_torch_pruning().importance.GroupMagnitudeImportance(p=self.power, normalizer=None)


@register
class MagnitudeL1(Magnitude):
    """L1 norm of the weights that are removed with a channel (1608.08710)."""

    name = "magnitude_l1"
    power = 1


@register
class Random(GroupImportance):
    """Random scores: the baseline for all other importances."""

    name = "random"

    def _importance(self, model: nn.Module, images: Tensor, task: Task, generator: torch.Generator) -> Any:
        return require_torch_pruning().importance.RandomImportance()


@register
class Taylor(GroupImportance):
    """First-order change of the loss when a channel is removed (1906.10771), with the model's own predictions as labels."""

    name = "taylor"

    def _importance(self, model: nn.Module, images: Tensor, task: Task, generator: torch.Generator) -> Any:
        model.zero_grad()
        for batch in track(images.split(BATCH), "importance"):
            with torch.enable_grad():
                output = model(batch.to(next(model.parameters()).device))
                predicted_label_loss(output, task).sum().backward()
        return require_torch_pruning().importance.GroupTaylorImportance(normalizer=None)


@register
class Hessian(GroupImportance):
    """Second-order change of the loss when a channel is removed (Optimal Brain Damage), by the diagonal Fisher information.

    Labels are sampled from the model's predictions, image by image: the Hessian of that loss is the Fisher information.
    """

    name = "hessian"

    def _importance(self, model: nn.Module, images: Tensor, task: Task, generator: torch.Generator) -> Any:
        importance = require_torch_pruning().importance.GroupHessianImportance(normalizer=None)
        importance.zero_grad()
        for image in track(images.split(1), "importance"):
            with torch.enable_grad():
                output = model(image.to(next(model.parameters()).device))
                model.zero_grad()
                sampled_label_loss(output, task, generator).sum().backward()
            importance.accumulate_grad(model)
        return importance
