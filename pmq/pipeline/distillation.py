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

from pmq.core import Allocation
from pmq.core.files import write_bytes
from pmq.core.progress import message, track
from pmq.core.rundir import RunDir
from pmq.core.spec import as_what, task_of
from pmq.core.task import AUTO, Task
from pmq.core.tensors import TensorFile
from pmq.models.distil import Distiller
from pmq.models.weights import parameters_file
from pmq.pipeline.distillation_schedule import Schedule
from pmq.pipeline.distillation_state import STATE, restored
from pmq.pipeline.finetuning_start import StartSettings
from pmq.pipeline.images import as_images
from pmq.pipeline.students import Student, student_of
from pmq.pipeline.subject import Subject
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
        start: the model as it was before.
        allocation: the pruned or quantized model with its best parameters.
        before: mean error on the held-out images at the start.
        after: mean error on the held-out images with the best parameters.
        history: mean error at the start and after each epoch.
    """

    start: Allocation
    allocation: Allocation
    before: float
    after: float
    history: list[float]


@dataclass
class Distillation:
    """A student in training, and its best parameters so far; :func:`train` changes ``history`` and ``best``.

    Attributes:
        start: the allocation that the student was loaded from.
        student: the model with fewer channels or bits.
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

    start: Allocation
    student: Student
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
    what: Allocation | Path | str,
    train: list[int],
    held_out: Tensor,
    schedule: Schedule,
    start: StartSettings,
    out: Path | str,
    resume: bool,
) -> Distillation:
    """Build the student, and restore what a killed run had reached; see :func:`pmq.finetune` for the arguments.

    Raises:
        PmqError: the model is not the teacher of this student, the student cannot be trained, or the folder holds another run.
    """
    item, held_out = as_what(what), as_images(held_out)
    like = item if isinstance(item, Allocation) else None
    subject = Subject.of(teacher, images=held_out, task=task_of(AUTO, item), like=like)
    start.check(item, subject)
    subject = subject.scaled(held_out)
    settings: dict[str, Any] = {
        "start": start.described(item),
        "train": hashlib.sha256(repr(train).encode()).hexdigest()[:16],
        **asdict(schedule),
    }
    student = None if like is None else student_of(like, subject)  # what does not fit is refused before a folder is made
    run = RunDir(out, settings, resume)
    allocation = start.allocation(item, subject, run.path)
    student = student or student_of(allocation, subject)
    device, task = next(subject.model.parameters()).device, subject.task
    steps = schedule.epochs * -(-len(train) // schedule.batch_size)
    distiller = Distiller(
        student.module, subject.module, schedule.rate, steps, task, schedule.amp, student.undecayed, student.penalty
    )
    history, best = restored(run.path / STATE, distiller, student.module)
    with torch.no_grad():
        references = [subject.module(x.to(device)) for x in held_out.split(schedule.batch_size)]
    distillation = Distillation(allocation, student, distiller, run, train, held_out, references, task, schedule, history, best)
    if not history:
        distillation.history, distillation.best = [held_out_error(distillation)], parameters_file(student.module)
    return distillation


def train(distillation: Distillation, images: Images) -> None:
    """Train the remaining epochs; after each one the run directory holds everything needed to resume."""
    schedule, student, history = distillation.schedule, distillation.student.module, distillation.history
    n_batches = -(-len(distillation.train) // schedule.batch_size)
    for epoch in range(len(history) - 1, schedule.epochs):
        order = np.random.default_rng([schedule.seed, epoch]).permutation(distillation.train).tolist()
        generator = torch.Generator().manual_seed(schedule.seed * 100_003 + epoch)
        batches = images.batches(schedule.batch_size, order)
        for x, *_ in track(batches, f"epoch {epoch + 1} of {schedule.epochs}", total=n_batches):
            distillation.distiller.learn(schedule.varied(x, generator))
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


def best_student(distillation: Distillation) -> Allocation:
    """Return the allocation of the student with its best parameters, which the student is given."""
    best = {name: torch.from_numpy(array) for name, array in distillation.best.arrays().items()}
    distillation.student.module.load_state_dict(best, strict=False)
    allocation = distillation.student.allocation(distillation.schedule.epochs)
    known = allocation.calibration
    if known is None:
        return allocation
    n_trained = max(len(distillation.train) - known.n_images, 0)  # as far as they did not calibrate already
    n_held_out = max(known.n_held_out, len(distillation.held_out) + n_trained)
    return allocation.model_copy(update={"calibration": known.model_copy(update={"n_held_out": n_held_out})})


@torch.no_grad()
def held_out_error(distillation: Distillation) -> float:
    """Return the mean error on the held-out images of what the student's allocation computes."""
    simulation, batch_size = distillation.student.simulation(), distillation.schedule.batch_size
    device = next(simulation.parameters()).device
    errors = [
        output_error(reference, simulation(x.to(device)), distillation.task)
        for x, reference in zip(distillation.held_out.split(batch_size), distillation.references, strict=True)
    ]
    return float(torch.cat(errors).double().mean())
