"""The verb ``finetune``."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from pmq.core import Allocation
from pmq.core.run_files import CHOSEN
from pmq.pipeline.distillation import Finetuned, Images, Schedule, best_student, plan_distillation
from pmq.pipeline.distillation import train as train_student
from pmq.pipeline.torch_modes import undisturbed


@undisturbed
def finetune(
    teacher: nn.Module,
    pruned: Allocation,
    images: Images,
    train: list[int],
    held_out: Tensor,
    *,
    epochs: int = 10,
    rate: float = 1e-4,
    batch_size: int = 32,
    amp: bool = False,
    vary: bool = True,
    seed: int = 0,
    out: Path | str,
    resume: bool = False,
) -> Finetuned:
    """Train a pruned model by distillation from the unpruned one (1503.02531), and keep its best parameters.

    Args:
        teacher: the model before it was pruned; training runs on its device.
        pruned: the allocation that :func:`pmq.prune` returned.
        images: source of images; no labels are needed.
        train: indices of the images to learn from.
        held_out: images ``(N, C, H, W)`` that select the best epoch.
        epochs: how often each image is seen.
        rate: highest learning rate.
        batch_size: images in a step.
        amp: compute products in bfloat16.
        vary: mirror and magnify images at random.
        seed: seed of order and variation.
        out: run directory to write; after each epoch it holds everything needed to resume.
        resume: resume a killed run.

    Returns:
        The allocation with its best parameters, and the errors on the held-out images, see :class:`Finetuned`.

    Raises:
        PmqError: the model is not the teacher of this student, the student has bits already, or the folder holds another run.
    """
    schedule = Schedule(epochs, rate, batch_size, amp, vary, seed)
    distillation = plan_distillation(teacher, pruned, train, held_out, schedule, out, resume)
    train_student(distillation, images)
    allocation = best_student(distillation)
    allocation.save(Path(out) / CHOSEN)
    history = distillation.history
    return Finetuned(allocation, history[0], min(history), history)
