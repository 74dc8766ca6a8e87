"""Reconstruction of one stage: minimization of its output error over rounding, scales, biases and norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pmq.quant.reconstruction.checkpoint import Learned
from pmq.quant.reconstruction.learned import LearnedActivation, LearnedWeight
from pmq.quant.simulator import Simulator
from pmq.quant.spill import Spill


@dataclass(frozen=True)
class LearningSchedule:
    """Learning schedule: number of steps and learning rates. The rates are low, as higher ones overfit few images.

    Attributes:
        steps: number of gradient steps for each stage.
        rounding_rate: Adam's learning rate for positions of weights, in steps of their grids.
        scale_rate: learning rate for gains of scales.
        bias_rate: learning rate for biases and the norms' affine parameters.
        exact: fraction of the stage's input values that are taken from the FP32 model, at random (QDrop, 2203.05740).
    """

    steps: int
    rounding_rate: float = 1e-3
    scale_rate: float = 3e-3
    bias_rate: float = 1e-3
    exact: float = 0.5


@dataclass(frozen=True)
class Streams:
    """Batches at a stage: its FP32 inputs, its inputs from the quantized earlier stages, and its FP32 outputs."""

    exact: Spill
    rounded: Spill
    references: Spill


class Learner:
    """Context manager of the learnable parts of a stage, which a simulator uses inside the context.

    Args:
        simulator: simulator that is quantized up to this stage.
        stage: index of the stage.
        weights: learnable weights of the stage, by component.
        activations: learnable activation quantizers of the stage, by component.
    """

    def __init__(
        self,
        simulator: Simulator,
        stage: int,
        weights: Mapping[str, LearnedWeight],
        activations: Mapping[str, LearnedActivation],
    ) -> None:
        self.simulator, self.stage, self.weights, self.activations = simulator, stage, weights, activations
        learned = {id(simulator.layer(n).weight) for n in weights}
        self.rest = [p for p in simulator.block_parameters(stage) if id(p) not in learned]

    def __enter__(self) -> Learner:
        for name, weight in self.weights.items():
            self.simulator.layer(name).learned = weight.forward
        for name, activation in self.activations.items():
            self.simulator.set_activation(name, activation.forward)
        for parameter in self.rest:
            parameter.requires_grad_(True)
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.weights:
            self.simulator.layer(name).learned = None
        for parameter in self.rest:
            parameter.requires_grad_(False)

    def compute(self) -> Learned:
        """Return the learned weights, quantizers and other parameters."""
        return Learned(
            {n: w.compute() for n, w in self.weights.items()},
            {n: a.compute() for n, a in self.activations.items()},
            self.rest,
        )

    def groups(self, schedule: LearningSchedule) -> list[dict[str, object]]:
        """Return the parameters with their learning rates, as groups for an optimizer."""
        modules = (*self.weights.values(), *self.activations.values())
        return [
            {"params": [w.position for w in self.weights.values()], "lr": schedule.rounding_rate},
            {"params": [m.gain for m in modules], "lr": schedule.scale_rate},
            {"params": self.rest, "lr": schedule.bias_rate},
        ]


def learn(learner: Learner, streams: Streams, rows: Sequence[Tensor] | None, schedule: LearningSchedule, seed: int = 0) -> None:
    """Minimize the squared error of the stage's output, in which ``rows`` has the weight of each row, ``(B, T)`` per batch."""
    optimizer = torch.optim.Adam(learner.groups(schedule))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, schedule.steps)
    generator = torch.Generator().manual_seed(seed)
    device = next(learner.simulator.model.parameters()).device
    first: float | None = None
    with learner, torch.enable_grad():
        for step in range(schedule.steps):
            i = step % len(streams.rounded)
            x, reference = streams.rounded[i].to(device), streams.references[i].to(device)
            mix = (torch.rand(x.shape, generator=generator) < schedule.exact).to(device)
            x = torch.where(mix, streams.exact[i].to(device), x)
            # Only products are in half precision, which is sufficient for gradients and halves the time.
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type in ("cpu", "cuda")):
                output = learner.simulator.run(x, learner.stage, learner.stage + 1)
            error = (output.float() - reference).square().mean(-1)
            loss = (error if rows is None else error * rows[i].to(device)).mean()
            first = first or max(float(loss.detach()), 1e-30)
            optimizer.zero_grad()
            (loss / first).backward()
            optimizer.step()
            scheduler.step()
