"""Reconstruction of a block of a simulator, or its restoration from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from pmq.core.choice import Choice
from pmq.core.errors import PmqError, one_line
from pmq.quant.quantizers import Quantizer
from pmq.quant.reconstruction.checkpoint import Checkpoints, Learned
from pmq.quant.reconstruction.learned import LearnedActivation, LearnedWeight
from pmq.quant.reconstruction.stage import Learner, LearningSchedule, Streams, learn
from pmq.quant.simulator import Simulator
from pmq.quant.weights import QuantizedWeight


def learn_block(
    simulator: Simulator,
    stage: int,
    weights: Mapping[str, QuantizedWeight],
    quantizers: Mapping[str, Quantizer],
    choices: Mapping[str, Choice],
    streams: Streams,
    rows: Sequence[Tensor] | None,
    steps: int,
    checkpoints: Checkpoints,
) -> Learned:
    """Reconstruct the block of a stage, or load it from a checkpoint, and apply the result to the simulator.

    Args:
        simulator: simulator that is quantized up to and including the stage.
        stage: index of the stage.
        weights: rounded weights that the simulator uses, by component of the stage.
        quantizers: fitted activation quantizers that the simulator uses, by component of the stage.
        choices: choices of both.
        streams: inputs of the stage and its target outputs.
        rows: weights of the output's rows for each batch, or ``None`` for equal weights.
        steps: number of gradient steps.
        checkpoints: checkpoints of learned stages.

    Returns:
        The learned weights, quantizers and other parameters of the stage.

    Raises:
        PmqError: the checkpoint of the stage is damaged.
    """
    originals = {n: simulator.original_weight(n) for n in weights}
    learner = Learner(
        simulator,
        stage,
        {n: LearnedWeight(originals[n], w, choices[n]) for n, w in weights.items()},
        {n: LearnedActivation(q, partial(simulator.spread, n), partial(simulator.by_scale, n)) for n, q in quantizers.items()},
    )
    saved = checkpoints.load(stage)
    if saved is None:
        learn(learner, streams, rows, LearningSchedule(steps))
        learned = learner.compute()
        checkpoints.save(stage, learned.to_file())
    else:
        try:
            learned = Learned.from_file(saved, choices, {n: w.shape for n, w in originals.items()})
            for parameter, value in zip(learner.rest, learned.rest, strict=True):
                parameter.data.copy_(value)
        except (KeyError, RuntimeError, ValueError) as error:  # a tensor is missing or has another shape
            raise PmqError(f"the checkpoint of stage {stage} is damaged: {one_line(error)}; remove its file") from None
    for name, weight in learned.weights.items():
        simulator.set_weight(name, weight.dequantize().to(originals[name].device))
    for name, quantizer in learned.quantizers.items():
        simulator.set_activation(name, simulator.spread(name, quantizer))
    return learned


def row_weights(squares: Tensor | None, outputs: Sequence[torch.Size], even: float) -> list[Tensor] | None:
    """Return weights of the output rows of each batch from squared gradients ``(N, T)``, or None if the numbers of rows differ.

    Outputs are ``(B, ..., C)`` and their weights ``(B, ...)``, with a mean of 1 over all batches. The fraction ``even`` of the
    weight is the same for all rows; the rest is proportional to the gradients, not to their squares, of which a few rows have
    almost all: gradient steps on few images then learn those rows by heart.

    >>> row_weights(torch.tensor([[0.0, 4.0]]), [torch.Size([1, 2, 8])], 0.5)
    [tensor([[0.5000, 1.5000]])]
    """
    shapes = [shape[:-1] for shape in outputs]
    if squares is None or squares.numel() != sum(shape.numel() for shape in shapes):
        return None
    gradients = squares.sqrt()
    rows = even + (1 - even) * gradients / gradients.mean().clamp(min=1e-15)
    parts = rows.split([shape[0] for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
