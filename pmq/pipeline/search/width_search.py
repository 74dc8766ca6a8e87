"""A model whose widths are searched together with its bits, and the pruned models of the chosen widths."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import Tensor

from pmq.core import PmqError
from pmq.core.choice import Decisions, widths_of
from pmq.core.pruning import PruningPlan
from pmq.core.recipe import Recipe
from pmq.pipeline.pruned_model import carved
from pmq.pipeline.search.width_options import width_options
from pmq.pipeline.subject import Subject
from pmq.pruning import Reconstruction, plan_of, provable_units, rotate_to_principal_axes
from pmq.pruning.losses import row_weights
from pmq.quant import Prepared, prepare

#: transforms that mix channels which widths remove one by one
MIXING = ("rotate_heads",)


class Joint:
    """A model whose widths are searched together with its bits.

    Heads are first rotated to their principal axes (:func:`pmq.pruning.rotate_to_principal_axes`), which leaves the output
    unchanged and allows their rank to be lowered; channels are ordered by the error that reconstruction cannot remove.
    While a search runs, removed channels are zero and the weights that read them are refitted; the chosen allocation is
    really pruned, reconstructed and quantized.

    Args:
        subject: the model, which is left unchanged.
        images: calibration images ``(N, C, H, W)``.
        recipe: recipe that will quantize the model.
        seed: seed of drawn labels.
        whole_groups: widths are multiples of this.

    Raises:
        PmqError: the recipe uses no gradients, the model is pruned already, or nothing of it can be pruned.
    """

    def __init__(self, subject: Subject, images: Tensor, recipe: Recipe, seed: int, whole_groups: int = 1) -> None:
        if not recipe.gradients:
            raise PmqError(
                f"recipe {recipe.name!r} uses no gradients, which widths need; search with `recipe=best` or `recipe=fast`"
            )
        if plan_of(subject.module) is not None:
            raise PmqError("this model is pruned already; search the model that it was built from with `prune`")
        self._subject, self._images, self._recipe, self._seed = subject, images, recipe, seed
        provable = provable_units(subject.module)
        provable.report_refused()
        units = provable.units
        if not units:
            raise PmqError(
                f"model {subject.info.name!r} has nothing to prune: it has no MLP of linear layers and no attention between "
                "linear layers whose channels can be removed; search with `prune=False`"
            )
        self._mixed = copy.deepcopy(subject.module)
        self._weights = row_weights(self._mixed, [unit.last for unit in units], images, subject.task, seed)
        scores = rotate_to_principal_axes(self._mixed, [unit for unit in units if unit.can_mix], images, self._weights)
        lost = Reconstruction().score(self._mixed, units, images, subject.task, seed, self._weights)
        self.widths = [
            width_options(subject.module, unit, scores.get(unit.name), lost[unit.name], whole_groups) for unit in units
        ]
        self._built: dict[tuple[str, ...], tuple[Subject, Prepared]] = {}

    def with_subject(self, subject: Subject) -> Joint:
        """Return the same widths for a subject whose graph merges tokens."""
        other = copy.copy(self)
        other._subject, other._built = subject, {}
        return other

    def prepared(self, n_held_out: int) -> Prepared:
        """Return the full-width model after transforms and calibration, its channels in the order that widths refer to."""
        subject = self._subject
        transforms = tuple(name for name in self._recipe.transforms if name not in MIXING)
        recipe = self._recipe.model_copy(update={"transforms": transforms})
        model = self._subject.of_module(copy.deepcopy(self._mixed)).model
        return prepare(model, subject.inventory, self._images, recipe, self._seed, n_held_out, subject.task)

    def built(self, assignment: Decisions) -> tuple[Subject, Prepared]:
        """Return the model pruned to an allocation's widths and reconstructed, in FP32, and the same prepared for its bits."""
        widths = widths_of(assignment)
        key = tuple(choice.label for choice in widths.values())
        if key not in self._built:
            units = {name: choice.unit for name, choice in widths.items()}
            plan = PruningPlan(importance=Reconstruction.name, ranked=True, recovered=True, units=units)
            pruned = carved(self._mixed, plan, self._subject.info.weights_sha256, self._images, self._weights)
            subject, task = self._subject.of_module(pruned), self._subject.task
            model = copy.deepcopy(subject.model)
            prepared = prepare(model, subject.inventory, self._images, self._recipe, self._seed, 0, task)
            self._built[key] = subject, prepared
        return self._built[key]


@dataclass(frozen=True)
class Whole:
    """A model whose widths are not searched, with the interface of :class:`Joint`."""

    subject: Subject
    model: Prepared

    def built(self, assignment: Decisions) -> tuple[Subject, Prepared]:
        """Return the full-width model for every allocation."""
        return self.subject, self.model
