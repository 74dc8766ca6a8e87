"""Fine-tuning by distillation: a model of fewer channels or bits learns the outputs of the FP32 model, without labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.task import CLASSIFICATION, Task
from pmq.models.outputs import joined, to_logits, unit_norm

#: share of all steps in which the learning rate warms up
WARMUP = 0.05
#: norm that gradients are clipped to
NORM = 1.0
WEIGHT_DECAY = 0.05
#: keys of the optimizer's state of a parameter
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Penalty:
    """Term of a loss, whose weight rises from 0 to ``weight`` over the steps, along half a cosine."""

    term: Callable[[], Tensor]
    weight: float


class Distiller:
    """Distillation of a teacher into a student, whose state can be saved and resumed.

    The loss is the KL divergence of the student's softmax from the teacher's (for features half the squared relative error).
    The optimizer is AdamW with a linear warm-up and a cosine decay of the learning rate.

    Args:
        student: is trained in place; it stays in evaluation mode, because training mode only adds randomness to vision
            transformers.
        teacher: the reference model.
        rate: the peak learning rate.
        steps: total number of steps.
        task: meaning of the outputs.
        amp: multiply in bfloat16.
        undecayed: names of parameters without weight decay, in addition to those of one axis.
        penalty: further term of the loss.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        rate: float,
        steps: int,
        task: Task = CLASSIFICATION,
        amp: bool = False,
        undecayed: Collection[str] = (),
        penalty: Penalty | None = None,
    ) -> None:
        self.student, self._teacher = student.eval(), teacher.eval()
        self._rate, self._steps, self._task, self._amp, self._penalty = rate, steps, task, amp, penalty
        self._named = {name: p.requires_grad_() for name, p in student.named_parameters()}
        decays = {name for name, p in self._named.items() if p.ndim > 1 and name not in undecayed}
        grouped = [[p for name, p in self._named.items() if (name in decays) == group] for group in (True, False)]
        self._optimizer = torch.optim.AdamW(
            [{"params": grouped[0], "weight_decay": WEIGHT_DECAY}, {"params": grouped[1], "weight_decay": 0.0}], lr=rate
        )
        self.step = 0

    def learn(self, images: Tensor) -> float:
        """Take one step on a batch ``(B, C, H, W)`` and return its loss."""
        device = next(self.student.parameters()).device
        images = images.to(device)
        done = self.step / self._steps
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * _schedule(done)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._amp):
            with torch.no_grad():
                target = self._teacher(images)
            output = self.student(images)
        loss = _loss(target.float(), output.float(), self._task)
        objective = loss
        if self._penalty is not None:
            objective = loss + self._penalty.weight * 0.5 * (1 - math.cos(math.pi * done)) * self._penalty.term()
        self._optimizer.zero_grad()
        objective.backward()
        nn.utils.clip_grad_norm_(self._named.values(), NORM)
        self._optimizer.step()
        self.step += 1
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """Return the parameters, the optimizer's moments and the number of steps as NumPy arrays by name."""
        tensors: dict[str, Any] = {"step": torch.tensor(self.step)}
        for name, parameter in self._named.items():
            tensors[f"parameter/{name}"] = parameter.detach()
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = value
        return {name: value.cpu().contiguous().numpy() for name, value in tensors.items()}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Resume from the arrays of :meth:`state`.

        Raises:
            KeyError, ValueError: an array is missing, or its shape or type differs from its parameter's.
        """
        self.step = int(arrays["step"])
        for name, parameter in self._named.items():
            has_moments = any(f"{key}/{name}" in arrays for key in _MOMENTS)  # a parameter without gradients has none
            for key in ("parameter", *(_MOMENTS[1:] if has_moments else ())):
                check_like(f"{key}/{name}", arrays[f"{key}/{name}"], parameter)
            parameter.data.copy_(torch.from_numpy(arrays[f"parameter/{name}"]))
            self._optimizer.state[parameter] = {
                key: torch.from_numpy(arrays[f"{key}/{name}"]).to("cpu" if key == "step" else parameter.device)
                for key in (_MOMENTS if has_moments else ())
            }


def check_like(name: str, array: Any, tensor: Tensor) -> None:
    """Check that an array has the shape and the type of a tensor.

    Raises:
        ValueError: the shape or the type differs.
    """
    loaded = torch.from_numpy(array)
    if loaded.shape != tensor.shape or loaded.dtype != tensor.dtype:
        actual, expected = (f"{tuple(t.shape)} of {str(t.dtype).removeprefix('torch.')}" for t in (loaded, tensor))
        raise ValueError(f"{name} is {actual}, not {expected}")


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images ``(B, C, H, W)`` and magnify each by up to a half around a random point."""
    batch = len(images)
    scale = 1 - torch.rand(batch, generator=generator) / 3
    shift = (2 * torch.rand(batch, 2, generator=generator) - 1) * (1 - scale)[:, None]
    mirror = 1 - 2 * (torch.rand(batch, generator=generator) < 0.5).float()
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * mirror, scale, shift
    grid = nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid.to(images), align_corners=False, padding_mode="reflection")


def mixed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blend each image ``(B, C, H, W)`` with another one of the batch, in a random ratio (mixup, 1710.09412).

    A teacher answers blends as well as images, so that a few images give any number of different questions (2106.05237).
    """
    batch = len(images)
    share = torch.rand(batch, 1, 1, 1, generator=generator).to(images)
    return share * images + (1 - share) * images[torch.randperm(batch, generator=generator)]


def _loss(target: Tensor, output: Tensor, task: Task) -> Tensor:
    if task.decides:
        p, q = to_logits(target, task).log_softmax(-1), to_logits(output, task).log_softmax(-1)
        return joined((p.exp() * (p - q)).sum(-1), task).mean()
    return ((target - output).flatten(1) / unit_norm(target, task)).square().sum(1).mean() / 2


def _schedule(done: float) -> float:
    """Return the share of the peak learning rate after a share of all steps.

    >>> [round(_schedule(x), 2) for x in (0.025, 0.05, 0.525, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if done < WARMUP:
        return max(done, 1e-3) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP)))
