"""Check that folders of images are numbered in the order of the model's training, based on the model's predictions."""

from __future__ import annotations

import torch
from torch import nn

from pmq.core.progress import message
from pmq.data.source import ImageSource

#: number of images to check
CHECKED_IMAGES = 128
#: difference in top-1, in percentage points, above which the other order is reported
BETTER = 20.0


@torch.no_grad()
def check_order(model: nn.Module, source: ImageSource) -> None:
    """Report if the top-1 accuracy of ``model`` is much higher when folders are numbered in the other order.

    This is checked only if the class numbers come from the order of the folders alone, and the two orders differ because of
    numbers in the folders' names.
    """
    classes = source.classes
    if classes is None or classes.other is None:
        return
    reordered = torch.tensor([classes.other[name] for name in classes.names])
    device, right, right_other, total = next(model.parameters()).device, 0, 0, 0
    for images, labels in source.batches(16, source.draw(0)[:CHECKED_IMAGES], n_total=len(source)):
        output = model(images.to(device))
        known = labels >= 0
        if not isinstance(output, torch.Tensor) or output.ndim != 2 or not bool(known.any()):
            return
        decided = (output[:, 0] > 0).long() if output.shape[1] == 1 else output.argmax(1)
        decided, labels = decided.cpu()[known], labels[known]
        right, right_other = right + int((decided == labels).sum()), right_other + int((decided == reordered[labels]).sum())
        total += len(labels)
    if total and 100 * (right_other - right) / total > BETTER:
        message(
            f"top-1 on {total} images is {100 * right / total:.0f} % with folders in this order and "
            f"{100 * right_other / total:.0f} % in the other, in which the model was probably trained; "
            f"pass `class_order={classes.other_order}`"
        )
