"""The steps of ``pmq.finetune``: plan, resume, train epoch by epoch, and keep the best parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pmq.core import Allocation, PmqError
from pmq.core.checkpoints import keep
from pmq.core.files import write_bytes
from pmq.core.progress import message, track
from pmq.core.rundir import RunDir
from pmq.core.task import AUTO, Task
from pmq.core.tensors import TensorFile
from pmq.graph import captured
from pmq.models import model_info
from pmq.models.weights import both_file, parameters_file, weights_sha256
from pmq.pipeline.distillation_state import RESUMABLE, STATE, restored
from pmq.pipeline.images import as_images
from pmq.pipeline.pruned_model import load_pruned
from pmq.pipeline.subject import take_in
from pmq.pruning.distil import Distiller, augment
from pmq.quant import output_error


class Images(Protocol):
    """Source of images, read batch by batch; :class:`pmq.data.source.ImageSource` is one."""

    def batches(self, batch_size: int, indices: list[int]) -> Iterable[tuple[Tensor, Any]]:
        """Yield images ``(B, C, H, W)`` with whatever else the source has of them."""
        ...


@dataclass(frozen=True)
class Finetuned:
    """Result of fine-tuning.

    Attributes:
        allocation: the pruned model with its best parameters.
        before: mean error on the held-out images at the start.
        after: mean error on the held-out images with the best parameters.
        history: mean error at the start and after each epoch.
    """

    allocation: Allocation
    before: float
    after: float
    history: list[float]


@dataclass(frozen=True)
class Schedule:
    """How a student is trained.

    Attributes:
        epochs: how often each image is seen.
        rate: highest learning rate.
        batch_size: images in a step.
        amp: whether products are computed in bfloat16.
        vary: whether images are mirrored and magnified at random.
        seed: seed of order and variation.
    """

    epochs: int
    rate: float
    batch_size: int
    amp: bool
    vary: bool
    seed: int


@dataclass
class Distillation:
    """A student in training, and its best parameters so far; :func:`train` changes ``history`` and ``best``.

    Attributes:
        pruned: the allocation that the student was loaded from.
        student: the pruned model.
        distiller: teacher, loss and optimizer.
        run: run directory, locked until the end.
        train: indices of the images to learn from.
        held_out: images ``(N, C, H, W)`` that select the best epoch.
        references: the teacher's outputs for them, batch by batch.
        task: meaning of the outputs.
        schedule: how the student is trained.
        history: error at the start and after each finished epoch.
        best: parameters with the least error so far.
    """

    pruned: Allocation
    student: nn.Module
    distiller: Distiller
    run: RunDir
    train: list[int]
    held_out: Tensor
    references: list[Tensor]
    task: Task
    schedule: Schedule
    history: list[float] = field(default_factory=list)
    best: TensorFile = field(default_factory=lambda: TensorFile.of({}))


def plan_distillation(
    teacher: nn.Module,
    pruned: Allocation,
    train: list[int],
    held_out: Tensor,
    schedule: Schedule,
    out: Path | str,
    resume: bool,
) -> Distillation:
    """Build the student, and restore what a killed run had reached; see :func:`pmq.finetune` for the arguments.

    Raises:
        PmqError: the model is not the teacher of this student, the student has bits already, or the folder holds another run.
    """
    if pruned.pruning is None:
        raise PmqError("this allocation is no pruned model; `pmq prune` makes one to fine-tune")
    held_out = as_images(held_out)
    teacher = take_in(teacher, images=held_out)
    pruned.check_model(model_info(teacher))
    device, task = next(teacher.parameters()).device, Task.of(pruned.task or AUTO, pruned.model.num_classes)
    student = load_pruned(pruned, teacher).to(device)
    steps = schedule.epochs * -(-len(train) // schedule.batch_size)
    distiller = Distiller(student, teacher, schedule.rate, steps, task, schedule.amp)
    settings: dict[str, Any] = {
        "pruned": pruned.tensors_sha256,
        "train": hashlib.sha256(repr(train).encode()).hexdigest()[:16],
        **asdict(schedule),
    }
    run = RunDir(out, settings, resume)
    history, best = restored(run.path / STATE, distiller, student)
    with torch.no_grad():
        references = [teacher(x.to(device)) for x in held_out.split(schedule.batch_size)]
    distillation = Distillation(pruned, student, distiller, run, train, held_out, references, task, schedule, history, best)
    if not history:
        distillation.history, distillation.best = [held_out_error(distillation)], parameters_file(student)
    return distillation


def train(distillation: Distillation, images: Images) -> None:
    """Train the remaining epochs; after each one the run directory holds everything needed to resume."""
    schedule, student, history = distillation.schedule, distillation.student, distillation.history
    n_batches = -(-len(distillation.train) // schedule.batch_size)
    for epoch in range(len(history) - 1, schedule.epochs):
        order = np.random.default_rng([schedule.seed, epoch]).permutation(distillation.train).tolist()
        generator = torch.Generator().manual_seed(schedule.seed * 100_003 + epoch)
        batches = images.batches(schedule.batch_size, order)
        for x, *_ in track(batches, f"epoch {epoch + 1} of {schedule.epochs}", total=n_batches):
            distillation.distiller.learn(augment(x, generator) if schedule.vary else x)
        error = held_out_error(distillation)
        if error < min(history):
            distillation.best = parameters_file(student)
        history.append(error)
        message(
            f"epoch {epoch + 1}: error on held-out images {error:.4g}, at the start {history[0]:.4g}, best {min(history):.4g}"
        )
        best = {f"best/{name}": array for name, array in distillation.best.arrays().items()}
        state = distillation.distiller.state() | best | {"history": np.array(history)}
        write_bytes(distillation.run.path / STATE, TensorFile.of(state).data)
        keep(distillation.run.path, *RESUMABLE)


def best_student(distillation: Distillation) -> Allocation:
    """Return the allocation of the student with its best parameters, which the student is given."""
    student, pruned = distillation.student, distillation.pruned
    best = {name: torch.from_numpy(array) for name, array in distillation.best.arrays().items()}
    student.load_state_dict(best, strict=False)
    assert pruned.pruning is not None
    plan = pruned.pruning.model_copy(update={"weights_sha256": weights_sha256(student)})
    image = distillation.held_out[:1].to(next(student.parameters()).device)
    return pruned.model_copy(update={"pruning": plan}).with_tensors(both_file(student, captured(student, image)))


@torch.no_grad()
def held_out_error(distillation: Distillation) -> float:
    """Return the student's mean error on the held-out images."""
    student, batch_size = distillation.student, distillation.schedule.batch_size
    device = next(student.parameters()).device
    errors = [
        output_error(reference, student(x.to(device)), distillation.task)
        for x, reference in zip(distillation.held_out.split(batch_size), distillation.references, strict=True)
    ]
    return float(torch.cat(errors).double().mean())
