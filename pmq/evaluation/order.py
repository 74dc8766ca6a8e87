"""Whether folders of images are numbered in the order that a model was trained in, as far as its own decisions tell."""

from __future__ import annotations

import torch
from torch import nn

from pmq.core.progress import message
from pmq.data.source import ImageSource

#: images that are looked at
LOOKED_AT = 128
#: percent of top-1 by which the other order must be better to be told
BETTER = 20.0


@torch.no_grad()
def check_order(model: nn.Module, source: ImageSource) -> None:
    """Say so if ``model`` is much more often right when folders are numbered in the other order.

    That is looked at where nothing but their order numbers them, and numbers in their names make the orders differ.
    """
    classes = source.classes
    if classes is None or classes.other is None:
        return
    moved = torch.tensor([classes.other[name] for name in classes.names])
    device, right, right_other, total = next(model.parameters()).device, 0, 0, 0
    for images, labels in source.batches(16, source.draw(0)[:LOOKED_AT], of=len(source)):
        output = model(images.to(device))
        known = labels >= 0
        if not isinstance(output, torch.Tensor) or output.ndim != 2 or not bool(known.any()):
            return
        decided = (output[:, 0] > 0).long() if output.shape[1] == 1 else output.argmax(1)
        decided, labels = decided.cpu()[known], labels[known]
        right, right_other = right + int((decided == labels).sum()), right_other + int((decided == moved[labels]).sum())
        total += len(labels)
    if total and 100 * (right_other - right) / total > BETTER:
        message(
            f"top-1 on {total} images is {100 * right / total:.0f} % with folders in this order and "
            f"{100 * right_other / total:.0f} % in the other: the model seems to be trained so; "
            f"pass --class-order {classes.other_order}"
        )
