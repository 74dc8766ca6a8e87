"""How much each channel matters: importances of torch-pruning, on groups of layers that lose it together."""

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
from pmq.pruning.losses import BATCH, RowWeights, drawn_labels, own_labels
from pmq.pruning.units import Unit

Scores = dict[str, Tensor]  # unit -> (size,), the larger the more important


class Importance(ABC):
    """Scores the channels of units."""

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
            units: of it.
            images: ``(N, C, H, W)``; they need no labels.
            task: what its outputs mean.
            seed: of drawn labels and of chance.
            weights: :func:`pmq.pruning.losses.row_weights` of the units' last layers on the images, where they are known.
        """


class GroupImportance(Importance):
    """One of torch-pruning, on the groups of layers that its dependency graph finds. Subclasses write ``_importance``."""

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
                return {unit.name: importance(groups.of(unit)).detach().double().cpu() for unit in units}
            finally:
                model.zero_grad(set_to_none=True)

    @abstractmethod
    def _importance(self, model: nn.Module, images: Tensor, task: Task, generator: torch.Generator) -> Any:
        """Give what scores a group, after whatever passes over the images it needs."""


IMPORTANCES: Registry[Importance] = Registry("importance")


def register(cls: type[Importance]) -> type[Importance]:
    """Make an importance known by its name."""
    IMPORTANCES.add(cls.name, cls())
    return cls


@register
class Magnitude(GroupImportance):
    """L2 norm of the weights that a channel takes with it (1608.08710)."""

    name = "magnitude"
    power: ClassVar[int] = 2

    def _importance(self, model: nn.Module, images: Tensor, task: Task, generator: torch.Generator) -> Any:
        return require_torch_pruning().importance.GroupMagnitudeImportance(p=self.power, normalizer=None)


@register
class MagnitudeL1(Magnitude):
    """L1 norm of the weights that a channel takes with it (1608.08710)."""

    name = "magnitude_l1"
    power = 1


@register
class Random(GroupImportance):
    """Chance: what every other importance must beat."""

    name = "random"

    def _importance(self, model: nn.Module, images: Tensor, task: Task, generator: torch.Generator) -> Any:
        return require_torch_pruning().importance.RandomImportance()


@register
class Taylor(GroupImportance):
    """First-order change of the loss without the channel (1906.10771); labels are what the model itself says."""

    name = "taylor"

    def _importance(self, model: nn.Module, images: Tensor, task: Task, generator: torch.Generator) -> Any:
        model.zero_grad()
        for batch in track(images.split(BATCH), "importance"):
            with torch.enable_grad():
                output = model(batch.to(next(model.parameters()).device))
                own_labels(output, task).sum().backward()
        return require_torch_pruning().importance.GroupTaylorImportance(normalizer=None)


@register
class Hessian(GroupImportance):
    """Second-order change of the loss without the channel (Optimal Brain Damage), by the diagonal of the Fisher information.

    Labels are drawn from what the model says, image by image: that is whose loss has the Fisher information as Hessian.
    """

    name = "hessian"

    def _importance(self, model: nn.Module, images: Tensor, task: Task, generator: torch.Generator) -> Any:
        importance = require_torch_pruning().importance.GroupHessianImportance(normalizer=None)
        importance.zero_grad()
        for image in track(images.split(1), "importance"):
            with torch.enable_grad():
                output = model(image.to(next(model.parameters()).device))
                model.zero_grad()
                drawn_labels(output, task, generator).sum().backward()
            importance.accumulate_grad(model)
        return importance
