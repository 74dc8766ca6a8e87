"""The subject of a verb: a model with its captured graph, its description and its components."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.allocation import Allocation, ModelInfo
from pmq.core.component import Inventory
from pmq.core.errors import PmqError
from pmq.core.merging import MergingPlan
from pmq.core.progress import message
from pmq.core.task import AUTO, CLASSIFICATION, Loss, Task
from pmq.graph import CapturedModel, captured, take_inventory, with_tensors
from pmq.graph.macs import count_macs
from pmq.graph.token_merging import merge_tokens, mergeable_blocks
from pmq.models import model_info
from pmq.models.describe import declares_normalization
from pmq.models.equivalence import check_captured
from pmq.models.outputs import scaled
from pmq.models.prepared import prepare_as
from pmq.models.task import set_task
from pmq.pipeline.intake import normalized
from pmq.quant.custom_loss import check_loss, loss_name


@dataclass(frozen=True)
class Subject:
    """A model with everything that the verbs need of it.

    Attributes:
        module: the model as a module.
        model: its captured graph, which computes the same, except for merged tokens, and shares its parameters.
        info: name, hash of the weights, data config and number of classes.
        inventory: its components and operators.
        task: meaning of its outputs.
        merging: how many tokens the captured graph merges, or ``None``.
    """

    module: nn.Module
    model: CapturedModel
    info: ModelInfo
    inventory: Inventory
    task: Task = CLASSIFICATION
    merging: MergingPlan | None = None

    def of_module(self, module: nn.Module) -> Subject:
        """Return the subject of a module with other widths, with tokens merged as here."""
        model = captured(module, self._image)
        model = with_tensors(model, self.inventory.norms_written_out) if self.inventory.whole else model
        shaped = replace(self, module=module, model=model, inventory=take_inventory(model, self._image), merging=None)
        return shaped.merged(self.merging)

    def merged(self, plan: MergingPlan | None) -> Subject:
        """Return the subject with tokens merged by a plan, see :func:`pmq.graph.token_merging.merge_tokens`.

        Raises:
            PmqError: the plan is of another number of tokens, or merges where this model cannot.
        """
        if plan is None:
            return self
        n_tokens = next(iter(mergeable_blocks(self.model).values())).n_tokens
        if n_tokens != plan.tokens:
            raise PmqError(f"the allocation merges some of {plan.tokens} tokens, but an image is {n_tokens} tokens of this model")
        model = merge_tokens(self.model, plan.merged, plan.prefix)
        model.total_macs = count_macs(model, self._image)
        return replace(self, model=model, inventory=take_inventory(model, self._image), merging=plan)

    @property
    def _image(self) -> Tensor:
        return torch.zeros(1, *self.info.data_config["input_size"]).to(next(self.module.parameters()).device)

    def scaled(self, images: Tensor) -> Subject:
        """Return the subject with the scale of its outputs on images ``(N, C, H, W)``, where its task needs one."""
        return replace(self, task=scaled(self.task, self.model, images))

    def with_loss(self, loss: Loss | None, images: Tensor) -> Subject:
        """Return the subject with errors measured by a custom loss, after a check of the loss on images ``(N, C, H, W)``.

        Raises:
            PmqError: the loss cannot be used, see :func:`pmq.quant.custom_loss.check_loss`.
        """
        if loss is None:
            return self
        with torch.no_grad():
            check_loss(loss, self.model(images[:4].to(next(self.model.parameters()).device)))
        message(f"errors are measured by {loss_name(loss)}(reference, output)")
        return replace(self, task=replace(self.task, loss=loss))

    @classmethod
    def of(
        cls,
        model: nn.Module | str | None,
        device: str | torch.device | None = None,
        images: Tensor | None = None,
        crop_pct: float | None = None,
        task: str = AUTO,
        like: Allocation | None = None,
        data_config: Mapping[str, Any] | None = None,
        whole: bool = False,
        norms: bool = False,
    ) -> Subject:
        """Copy the user's module or create a model by name, capture it, and list its components.

        Args:
            model: a module (left unchanged), a name, or ``None`` for the embedded model.
            device: device to move the copy to.
            images: preprocessed images ``(N, C, H, W)`` on which the outputs must be finite; without them the input size is
                that of ``like``, or of the model's own config.
            crop_pct: crop of the images, where it differs from the model's data config.
            task: meaning of the outputs, a name of :class:`pmq.core.task.Task`.
            like: an allocation of a model of the same name, which supplies missing facts.
            data_config: preprocessing, where the model does not define it or it differs; by default that of ``like``.
            whole: whether every tensor between operators is a component; so it is for an allocation ``like`` that has these.
            norms: whether norms are written out in a whole graph, too.

        Raises:
            PmqError: the model cannot be copied or captured, cannot take such images, or has nothing to quantize.
        """
        module, image, output = normalized(model, device, images, None if like is None else like.model, like)
        prepare_as(module, _preparation(module, data_config, like))
        meaning = set_task(module, output, task)
        info = model_info(module, image.shape[1:])
        if crop_pct is not None:
            info = info.model_copy(update={"data_config": info.data_config | {"crop_pct": crop_pct}})
        model = captured(module, image)
        norms = norms or (like is not None and like.norms_written_out)
        model = with_tensors(model, norms) if whole or (like is not None and like.whole) else model
        check_captured(module, model, image if images is None else images)
        inventory = take_inventory(model, image)
        if not inventory.components:
            raise PmqError(
                f"model {info.name!r} has no component that can be quantized; it has no layers that multiply by weights"
            )
        return cls(module, model, info, inventory, meaning)


def _preparation(module: nn.Module, config: Mapping[str, Any] | None, like: Allocation | None) -> Mapping[str, Any]:
    """Return the preprocessing that replaces the module's own."""
    if config is not None:
        return config
    known = {} if like is None else like.model.data_config
    if declares_normalization(module):
        return {}
    return {n: known[n] for n in ("mean", "std", "interpolation", "crop_pct") if n in known}
