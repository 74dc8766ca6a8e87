"""Fine-tuning of pruned models, for those who have images and time: it can be killed and gone on with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pmq.core import Allocation, PmqError
from pmq.core.checkpoints import keep
from pmq.core.errors import one_line
from pmq.core.files import is_file, quoted, write_bytes
from pmq.core.progress import message, track
from pmq.core.rundir import CHOSEN, RunDir
from pmq.core.task import AUTO, Task
from pmq.core.tensors import TensorFile
from pmq.graph import captured
from pmq.models import model_info
from pmq.models.weights import both_file, parameters_file, weights_sha256
from pmq.pipeline.images import as_images
from pmq.pipeline.modes import undisturbed
from pmq.pipeline.pruned_model import load_pruned
from pmq.pipeline.subject import take_in
from pmq.pruning.distil import Distiller, check_like, varied
from pmq.quant import output_error

#: file with all that a killed run goes on from, below its folder
STATE = "state.safetensors"
KEPT = "learned", "go on with the same command and --resume"


class Images(Protocol):
    """Where images are read from, batch by batch: :class:`pmq.data.source.ImageSource` is one."""

    def batches(self, batch_size: int, indices: list[int]) -> Iterable[tuple[Tensor, Any]]:
        """Yield images ``(B, C, H, W)`` and what else there is of them."""
        ...


@dataclass(frozen=True)
class Finetuned:
    """What came of it.

    Attributes:
        allocation: the pruned model at its best.
        before, after: mean error on the held-out images at the start, and at the best.
        history: the same after each epoch.
    """

    allocation: Allocation
    before: float
    after: float
    history: list[float]


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
    """Teach a pruned model what the whole one says (distillation, 1503.02531); keep it at its best.

    Args:
        teacher: the model before it was pruned; training runs where it is.
        pruned: what :func:`pmq.prune` gave.
        images: where images are read; labels are not needed.
        train: numbers of those to learn from.
        held_out: ``(N, C, H, W)`` that tell which epoch is the best.
        epochs: how often each image is seen.
        rate: the highest learning rate.
        batch_size: images of a step.
        amp: multiply in bfloat16.
        vary: mirror and magnify images.
        seed: of order and variation.
        out: folder to write to; after each epoch all is there to go on.
        resume: go on with what was killed there.

    Raises:
        PmqError: the model is of another teacher, its bits are chosen already, or the folder holds another run.
    """
    if pruned.pruning is None:
        raise PmqError("this allocation is of no pruned model; `pmq prune` makes one to fine-tune")
    held_out = as_images(held_out)
    teacher = take_in(teacher, images=held_out)
    pruned.check_model(model_info(teacher))
    device, task = next(teacher.parameters()).device, Task.of(pruned.task or AUTO, pruned.model.num_classes)
    student = load_pruned(pruned, teacher).to(device)
    steps = epochs * -(-len(train) // batch_size)
    distiller = Distiller(student, teacher, rate, steps, task, amp)
    asked: dict[str, Any] = {"pruned": pruned.tensors_sha256, "train": hashlib.sha256(repr(train).encode()).hexdigest()[:16]}
    asked |= {"epochs": epochs, "rate": rate, "batch_size": batch_size, "vary": vary, "amp": amp, "seed": seed}
    run = RunDir(out, asked, resume)  # held to the end
    state = run.path / STATE
    history, best = _reached(state, distiller, student)
    with torch.no_grad():
        wanted = [teacher(x.to(device)) for x in held_out.split(batch_size)]
    if not history:
        history, best = [_error(student, held_out, wanted, task, batch_size)], parameters_file(student)
    for epoch in range(len(history) - 1, epochs):
        order = np.random.default_rng([seed, epoch]).permutation(train).tolist()
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        batches = images.batches(batch_size, order)
        for x, *_ in track(batches, f"epoch {epoch + 1} of {epochs}", total=-(-len(train) // batch_size)):
            distiller.learn(varied(x, generator) if vary else x)
        error = _error(student, held_out, wanted, task, batch_size)
        best = parameters_file(student) if error < min(history) else best
        history.append(error)
        message(
            f"epoch {epoch + 1}: error on held-out images {error:.4g}, at the start {history[0]:.4g}, best {min(history):.4g}"
        )
        kept = {f"best/{name}": array for name, array in best.arrays().items()}
        write_bytes(state, TensorFile.of(distiller.state() | kept | {"history": np.array(history)}).data)
        keep(out, *KEPT)
    allocation = _at_its_best(pruned, student, best, held_out[:1].to(device))
    allocation.save(Path(out) / CHOSEN)
    return Finetuned(allocation, history[0], min(history), history)


def _reached(state: Path, distiller: Distiller, student: nn.Module) -> tuple[list[float], TensorFile]:
    """Go on from what a killed run had reached, if there is any: its history, and its best parameters."""
    if not is_file(state):
        return [], TensorFile.of({})
    arrays = TensorFile.read(state).arrays()
    keep(state.parent, *KEPT)
    try:
        distiller.restore(arrays)
        history = [float(error) for error in arrays["history"]]
        for name, parameter in student.named_parameters():
            check_like(f"best/{name}", arrays[f"best/{name}"], parameter)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:  # of tensors that are missing, or of other shapes
        raise PmqError(f"{quoted(state)} is not of this model: {one_line(error)}; remove it to begin anew") from None
    best = {name.removeprefix("best/"): array for name, array in arrays.items() if name.startswith("best/")}
    return history, TensorFile.of(best)


@torch.no_grad()
def _error(student: nn.Module, images: Tensor, wanted: list[Tensor], task: Task, batch_size: int) -> float:
    device = next(student.parameters()).device
    errors = [
        output_error(reference, student(x.to(device)), task)
        for x, reference in zip(images.split(batch_size), wanted, strict=True)
    ]
    return float(torch.cat(errors).double().mean())


def _at_its_best(pruned: Allocation, student: nn.Module, best: TensorFile, image: Tensor) -> Allocation:
    """The pruned model with the parameters that were best."""
    student.load_state_dict({name: torch.from_numpy(array) for name, array in best.arrays().items()}, strict=False)
    assert pruned.pruning is not None
    plan = pruned.pruning.model_copy(update={"weights_sha256": weights_sha256(student)})
    return pruned.model_copy(update={"pruning": plan}).with_tensors(both_file(student, captured(student, image)))
