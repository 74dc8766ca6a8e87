"""The verb ``finetune``."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from pmq.core.recipe import Recipe
from pmq.core.run_files import CHOSEN
from pmq.core.spec import What
from pmq.optimize import SpaceFile
from pmq.pipeline.distillation import Finetuned, Images, best_student, plan_distillation
from pmq.pipeline.distillation import train as train_student
from pmq.pipeline.distillation_schedule import Schedule
from pmq.pipeline.finetuning_start import StartSettings
from pmq.pipeline.torch_modes import undisturbed


@undisturbed
def finetune(
    teacher: nn.Module,
    what: What | Path,
    images: Images,
    train: list[int],
    held_out: Tensor,
    *,
    epochs: int = 10,
    rate: float = 1e-4,
    batch_size: int = 32,
    amp: bool = False,
    vary: bool = True,
    mix: bool = False,
    seed: int = 0,
    out: Path | str,
    resume: bool = False,
    calibration_images: Tensor | None = None,
    space: str | SpaceFile = "default",
    recipe: str | Recipe = "best",
    reconstruct: bool = False,
    checkpoints: Path | None = None,
    partial: bool = False,
) -> Finetuned:
    """Train a pruned or quantized model by distillation from the FP32 model (1503.02531), and keep its best parameters.

    A quantized model computes with the bits of its allocation while it is trained. Its weights are rounded in each forward
    pass and receive the gradients of the rounded values; step sizes and offsets of all grids are learned (LSQ, 1902.08153;
    LSQ+, 2004.09576), and weights are drawn to their levels more and more, so that they stop oscillating (2203.11086).

    Args:
        teacher: the model in FP32, before it was pruned; training runs on its device.
        what: the allocation of a pruned model that :func:`pmq.prune` returned, or of any quantized one; its file, its run
            directory, or a uniform shorthand such as ``w3a3``.
        images: source of images; no labels are needed.
        train: indices of the images to learn from.
        held_out: images ``(N, C, H, W)`` that select the best epoch.
        epochs: how often each image is seen.
        rate: highest learning rate of weights.
        batch_size: images in a step.
        amp: compute products in bfloat16 while training.
        vary: mirror and magnify images at random.
        mix: blend images with one another at random, for few images and many epochs.
        seed: seed of order and variation, and of the calibration of a shorthand.
        out: run directory to write; after each epoch it holds everything needed to resume.
        resume: resume a killed run.
        calibration_images: images ``(N, C, H, W)``, needed for shorthands.
        space: search space that shorthands take their quantizers and pins from.
        recipe: recipe that quantizes shorthands.
        reconstruct: whether shorthands learn rounding and scales, block by block, before they are fine-tuned.
        checkpoints: folder in which reconstruction keeps finished blocks.
        partial: quantize a shorthand although less than half of the model can be quantized.

    Returns:
        The allocation with its best parameters, and the errors on the held-out images, see :class:`Finetuned`.

    Raises:
        PmqError: the model is not the teacher of this student, the student cannot be trained, or the folder holds another run.
    """
    schedule = Schedule(epochs, rate, batch_size, amp, vary, mix, seed)
    start = StartSettings(calibration_images, space, recipe, reconstruct, checkpoints, partial, seed)
    distillation = plan_distillation(teacher, what, train, held_out, schedule, start, out, resume)
    train_student(distillation, images)
    allocation = best_student(distillation)
    allocation.save(Path(out) / CHOSEN)
    history = distillation.history
    return Finetuned(distillation.start, allocation, history[0], min(history), history)
