"""Widths beside bits: what a search may keep of each block, how that is simulated, and the models that come of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pmq.api.subject import Subject
from pmq.core import Assignment, PmqError
from pmq.core.choice import Kept
from pmq.core.progress import track
from pmq.core.pruning import PrunedUnit, PruningPlan, WidthOptions
from pmq.core.recipe import Recipe
from pmq.core.rundir import RunDir
from pmq.deploy import TARGETS
from pmq.deploy.widths import Narrower
from pmq.prune import IMPORTANCES, Reconstruction, Unit, apply_plan, concentrate, plan_of, prunable_units, recover, select
from pmq.prune.losses import row_weights
from pmq.prune.recover import STRENGTH
from pmq.quant import Cut, Prepared, output_error, prepare
from pmq.search import Space, SpaceFile
from pmq.sensitivity import Probe, SensitivityTable

#: shares that a search may keep of hidden channels, and of the channels of each head
SHARES = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
#: widths are multiples of it
ROUND_TO = 8
#: transforms that mix what is removed one by one
MIXING = ("rotate_heads",)


def width_options(model: nn.Module, unit: Unit, ranks: Tensor | None, lost: Tensor, whole_groups: int = 1) -> WidthOptions:
    """What may be kept of a unit, given what each channel loses ``(size,)``, and ``ranks``, where heads were mixed.

    Widths are multiples of ``whole_groups`` (but for all of it).
    """
    found: dict[str, PrunedUnit] = {}
    if unit.kind == "hidden" or ranks is not None:
        structure, scores = ("hidden", lost) if ranks is None else ("rank", ranks)
        for share in SHARES:
            kept = select([unit], {unit.name: scores}, 1 - share, (structure,), round_to=ROUND_TO)[unit.name]
            found.setdefault(kept.kept, kept)
    for heads in range(1, unit.heads):
        kept = select([unit], {unit.name: lost}, 1 - heads / unit.heads, ("heads",))[unit.name]
        found.setdefault(kept.kept, kept)
    whole = PrunedUnit.of(unit.kind, unit.size, range(unit.size), unit.heads)
    fitting = {text: kept for text, kept in found.items() if len(kept.indices) % whole_groups == 0}
    options = tuple(sorted((fitting | {whole.kept: whole}).values(), key=lambda kept: (kept.share, kept.kept_heads)))
    bias = getattr(model.get_submodule(WidthOptions(unit.name, options).layers[0]), "bias", None)
    return WidthOptions(unit.name, options, 4.0 * (bias.numel() if isinstance(bias, Tensor) else 0))


def groups_of(space: SpaceFile, target: str | None) -> int:
    """What widths must be multiples of where a target has no shorter groups of weights."""
    sizes = [mode.weight.group_size or 1 for mode in space.modes.values()]
    return 1 if target is None or TARGETS[target].ragged else max(sizes, default=1)


class Shapes:
    """The model at widths that a search may choose; which channels are kept does not matter here."""

    def __init__(self, subject: Subject, whole_groups: int = 1) -> None:
        self._subject, self._whole_groups = subject, whole_groups
        self._kinds: dict[tuple[object, ...], list[Unit]] = {}
        for unit in prunable_units(subject.model):
            self._kinds.setdefault((unit.kind, unit.size, unit.heads, unit.whole), []).append(unit)

    @property
    def whole(self) -> Narrower:
        """With all of it."""
        return Narrower(self._subject.model, self._subject.inventory, {})

    def alike(self) -> Iterator[Narrower]:
        """Each width, all units of a kind and size having it."""
        for units in self._kinds.values():
            for option in self._options(units[0])[:-1]:
                yield self._narrower({unit.name: option for unit in units})

    def mixed(self, count: int, seed: int = 0) -> Iterator[Narrower]:
        """Random widths of all units, around levels from the narrowest to the whole."""
        rng = np.random.default_rng(seed)
        options = {unit.name: self._options(unit) for units in self._kinds.values() for unit in units}
        for level in np.linspace(0, 1, count):
            drawn = {n: np.clip(round(level * (len(of) - 1) + rng.normal()), 0, len(of) - 1) for n, of in options.items()}
            yield self._narrower({name: of[int(drawn[name])] for name, of in options.items()})

    def _options(self, unit: Unit) -> tuple[PrunedUnit, ...]:
        order = torch.arange(unit.size, 0, -1).double()
        ranks = None if unit.kind == "hidden" or unit.whole else order
        return width_options(self._subject.model, unit, ranks, order, self._whole_groups).options

    def _narrower(self, widths: dict[str, PrunedUnit]) -> Narrower:
        plan = PruningPlan(importance="none", recovered=False, units=widths)
        shaped = self._subject.of_module(apply_plan(copy.deepcopy(self._subject.model), plan))
        return Narrower(shaped.model, shaped.inventory, widths)


class Joint:
    """A model whose widths are searched.

    Heads are mixed first, which changes nothing but lets their rank be lowered (:func:`pmq.prune.concentrate`); channels
    are ordered by what cannot be made good of them. While a search runs, what a width removes is zero, and the weights
    behind it are fitted anew; what is chosen is really pruned, recovered and quantized.

    Args:
        subject: the model, which is left as it is.
        images: those that calibrate ``(N, C, H, W)``.
        recipe: by which it will be quantized.
        seed: of drawn labels.
        whole_groups: widths are multiples of it.

    Raises:
        PmqError: the recipe knows no gradients, the model is pruned already, or nothing of it can be pruned.
    """

    def __init__(self, subject: Subject, images: Tensor, recipe: Recipe, seed: int, whole_groups: int = 1) -> None:
        if not recipe.gradients:
            raise PmqError(f"recipe {recipe.name!r} knows no gradients, which widths need; search with --recipe best or fast")
        if plan_of(subject.model) is not None:
            raise PmqError("this model is pruned already; search the one that it was made of with --prune")
        self._subject, self._images, self._recipe, self._seed = subject, images, recipe, seed
        units = prunable_units(subject.model)
        if not units:
            raise PmqError(f"model {subject.info.name!r} has nothing to prune; ViT, DeiT and Swin have; search without --prune")
        self._mixed = copy.deepcopy(subject.model)
        self._weights = row_weights(self._mixed, [unit.last for unit in units], images, subject.classifier, seed)
        ranked = [unit for unit in units if unit.kind == "attention" and not unit.whole]
        scores = concentrate(self._mixed, ranked, images, self._weights)
        lost = IMPORTANCES[Reconstruction.name].score(self._mixed, units, images, subject.classifier, seed)
        self.widths = [width_options(subject.model, unit, scores.get(unit.name), lost[unit.name], whole_groups) for unit in units]
        self._built: dict[tuple[str, ...], tuple[Subject, Prepared]] = {}

    def prepared(self, n_held_out: int) -> Prepared:
        """The whole model rewritten and calibrated, its channels in the order that widths name."""
        subject = self._subject
        kept = tuple(name for name in self._recipe.transforms if name not in MIXING)
        recipe = self._recipe.model_copy(update={"transforms": kept})
        model = copy.deepcopy(self._mixed)
        return prepare(model, subject.inventory, self._images, recipe, self._seed, n_held_out, subject.classifier)

    def built(self, assignment: Assignment) -> tuple[Subject, Prepared]:
        """The model pruned by an allocation's widths and recovered, in FP32; and the same made ready for its bits."""
        kept = {name: choice for name, choice in assignment.items() if isinstance(choice, Kept)}
        key = tuple(choice.label for choice in kept.values())
        if key not in self._built:
            units = {name: choice.unit for name, choice in kept.items()}
            plan = PruningPlan(importance=Reconstruction.name, ranked=True, recovered=True, units=units)
            pruned = apply_plan(copy.deepcopy(self._mixed), plan)
            pruned.pruned_from = self._subject.info.weights_sha256  # type: ignore[assignment]
            recover(self._mixed, pruned, plan, self._images, self._weights)
            subject, classifier = self._subject.of_module(pruned), self._subject.classifier
            model = copy.deepcopy(pruned)
            prepared = prepare(model, subject.inventory, self._images, self._recipe, self._seed, 0, classifier)
            self._built[key] = subject, prepared
        return self._built[key]


class Cuts:
    """Says what is left of a prepared model's weights at each width: see :class:`pmq.quant.Cut`."""

    def __init__(self, prepared: Prepared, widths: list[WidthOptions]) -> None:
        self._prepared, self._widths = prepared, {options.name: options for options in widths}
        self._known: dict[tuple[str, str], Mapping[str, Cut]] = {}

    def __call__(self, unit: str, choice: Kept) -> Mapping[str, Cut]:
        """Give them by component."""
        key = (unit, choice.label)
        if key not in self._known:
            self._known[key] = self._cuts(self._widths[unit], choice)
        return self._known[key]

    @torch.no_grad()
    def _cuts(self, options: WidthOptions, choice: Kept) -> dict[str, Cut]:
        first, last = options.layers
        parameters = dict(self._prepared.model.named_parameters())
        weight = parameters[f"{last}.weight"].detach()
        kept = torch.tensor(choice.unit.indices, device=weight.device)
        moment = self._prepared.calibration.moments[last].compute().double()
        square = moment[kept][:, kept]
        ridge = STRENGTH * square.diagonal().mean() * torch.eye(len(kept), dtype=square.dtype, device=square.device)
        wanted = weight.double() @ moment[:, kept] + weight[:, kept].double() @ ridge
        fitted = torch.linalg.solve(square + ridge, wanted, left=False).to(weight.dtype)
        found = {f"{last}.weight": Cut(choice.label, fitted, columns=kept)}
        if choice.unit.kind == "attention" and len(kept) * choice.unit.heads != choice.unit.size * choice.unit.kept_heads:
            # Without k's rows products lose these channels; q's are multiplied by what is the same for all keys then.
            made, size = parameters[f"{first}.weight"].detach(), choice.unit.size
            rows = torch.cat([torch.arange(size), size + kept.cpu(), torch.arange(2 * size, 3 * size)]).to(weight.device)
            found[f"{first}.weight"] = Cut(choice.label, made[rows], rows=rows)
        return found


@torch.no_grad()
def measure_widths(probe: Probe, space: Space, run: RunDir | None) -> SensitivityTable:
    """Mean error of the output with a single unit narrower, in FP32: in the same terms as ``measured`` errors of bits."""
    table, simulator = SensitivityTable("widths"), probe.simulator
    reference = probe.reference()
    simulator.apply({})
    device = next(simulator.model.parameters()).device
    inputs, at = [batch.to(device) for batch in probe.images.split(probe.batch_size)], 0
    for options in track(space.widths, "measuring widths"):
        stage = space.inventory[f"{options.layers[1]}.weight"].stage
        inputs, at = [simulator.run(x, at, stage) for x in inputs], stage
        for unit in options.options[:-1]:
            choice = Kept(unit=unit)
            key = f"width/{options.name}/{choice.label}"
            entry = run.recall(key) if run else None
            if entry is None:
                simulator.set(options.name, choice)
                output = torch.cat([simulator.run(x, at) for x in inputs])
                entry = {"error": float(output_error(reference, output, probe.classifier).mean())}
                if run:
                    run.record(key, entry)
            table.put(options.name, choice, float(entry["error"]))
        simulator.apply({})
    return table


@dataclass(frozen=True)
class Whole:
    """The same questions where no widths are searched."""

    subject: Subject
    model: Prepared

    def built(self, assignment: Assignment) -> tuple[Subject, Prepared]:
        """The model, whatever the allocation."""
        return self.subject, self.model


def bits_of(assignment: Assignment) -> Assignment:
    """An allocation without its widths."""
    return {name: choice for name, choice in assignment.items() if not isinstance(choice, Kept)}
