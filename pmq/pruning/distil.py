"""Fine-tuning by distillation: a pruned model learns to say what the whole one says, on images without labels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pmq.core.task import CLASSIFICATION, Task
from pmq.models.outputs import joined, to_logits, unit_norm

#: share of all steps in which the learning rate rises
WARMUP = 0.05
#: gradients are clipped to it
NORM = 1.0
WEIGHT_DECAY = 0.05
#: what the optimizer keeps of a parameter
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Distiller:
    """A student, its optimizer, and how far they are: all of it can be written down and gone on from.

    The loss is the KL divergence of the student's softmax from the teacher's (of features half the squared relative error);
    AdamW with a rate that rises and then falls as a cosine.

    Args:
        student: is changed in place; stays in evaluation mode, as vision transformers have nothing that training mode changes
            but chance.
        teacher: in evaluation mode.
        rate: the highest learning rate.
        steps: in all.
        task: what outputs mean.
        amp: multiply in bfloat16.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, rate: float, steps: int, task: Task = CLASSIFICATION, amp: bool = False
    ) -> None:
        self.student, self._teacher = student.eval(), teacher.eval()
        self._rate, self._steps, self._task, self._amp = rate, steps, task, amp
        self._named = {name: p.requires_grad_() for name, p in student.named_parameters()}
        grouped = [[p for p in self._named.values() if (p.ndim > 1) == matrix] for matrix in (True, False)]
        self._optimizer = torch.optim.AdamW(
            [{"params": grouped[0], "weight_decay": WEIGHT_DECAY}, {"params": grouped[1], "weight_decay": 0.0}], lr=rate
        )
        self.step = 0

    def learn(self, images: Tensor) -> float:
        """Take a step on ``(B, C, H, W)``; give the loss."""
        device = next(self.student.parameters()).device
        images = images.to(device)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * _schedule(self.step / self._steps)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._amp):
            with torch.no_grad():
                wanted = self._teacher(images)
            output = self.student(images)
        loss = _loss(wanted.float(), output.float(), self._task)
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._named.values(), NORM)
        self._optimizer.step()
        self.step += 1
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """NumPy arrays by name: parameters, the optimizer's means, how many steps."""
        found: dict[str, Any] = {"step": torch.tensor(self.step)}
        for name, parameter in self._named.items():
            found[f"parameter/{name}"] = parameter.detach()
            for key, value in self._optimizer.state.get(parameter, {}).items():
                found[f"{key}/{name}"] = value
        return {name: value.cpu().contiguous().numpy() for name, value in found.items()}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            KeyError, ValueError: an array is missing, or is not as its parameter.
        """
        self.step = int(arrays["step"])
        for name, parameter in self._named.items():
            moved = any(f"{key}/{name}" in arrays for key in _MOMENTS)  # one that nothing reads never moves
            for key in ("parameter", *(_MOMENTS[1:] if moved else ())):
                check_like(f"{key}/{name}", arrays[f"{key}/{name}"], parameter)
            parameter.data.copy_(torch.from_numpy(arrays[f"parameter/{name}"]))
            self._optimizer.state[parameter] = {
                key: torch.from_numpy(arrays[f"{key}/{name}"]).to("cpu" if key == "step" else parameter.device)
                for key in (_MOMENTS if moved else ())
            }


def check_like(name: str, array: Any, tensor: Tensor) -> None:
    """Raise unless an array has the shape and the type of a tensor.

    Raises:
        ValueError: it has not.
    """
    found = torch.from_numpy(array)
    if found.shape != tensor.shape or found.dtype != tensor.dtype:
        met, wanted = (f"{tuple(t.shape)} of {str(t.dtype).removeprefix('torch.')}" for t in (found, tensor))
        raise ValueError(f"{name} is {met}, not {wanted}")


def varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images ``(B, C, H, W)``, and magnify each by up to a half around a random place."""
    batch = len(images)
    scale = 1 - torch.rand(batch, generator=generator) / 3
    shift = (2 * torch.rand(batch, 2, generator=generator) - 1) * (1 - scale)[:, None]
    mirror = 1 - 2 * (torch.rand(batch, generator=generator) < 0.5).float()
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * mirror, scale, shift
    grid = nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid.to(images), align_corners=False, padding_mode="reflection")


def _loss(wanted: Tensor, output: Tensor, task: Task) -> Tensor:
    if task.decides:
        p, q = to_logits(wanted, task).log_softmax(-1), to_logits(output, task).log_softmax(-1)
        return joined((p.exp() * (p - q)).sum(-1), task).mean()
    return ((wanted - output).flatten(1) / unit_norm(wanted, task)).square().sum(1).mean() / 2


def _schedule(done: float) -> float:
    """Share of the highest rate after a share of all steps.

    >>> [round(_schedule(x), 2) for x in (0.025, 0.05, 0.525, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if done < WARMUP:
        return max(done, 1e-3) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP)))
