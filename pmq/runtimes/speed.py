"""Latency of a file compared with other files of the same model and with eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from pmq.models.float_products import torch_default
from pmq.quant.threads import threads_of_operators
from pmq.runtimes.session import Floats, Session
from pmq.runtimes.timing import interleaved, median_spread


def latencies(
    sessions: Mapping[str, Session],
    fed: Floats,
    other_inputs: Mapping[str, Floats],
    model: nn.Module,
    image: Tensor,
    threads: int,
    rounds: int,
) -> dict[str, float]:
    """Time sessions and eager PyTorch interleaved, in milliseconds.

    Args:
        sessions: name -> session; that of the deployed file is named ``file``.
        fed: input of all sessions that are not in ``other_inputs``.
        other_inputs: name -> input of sessions that take another one.
        model: model that eager PyTorch runs.
        image: input of eager PyTorch, ``(1, C, H, W)``.
        threads: number of threads of PyTorch.
        rounds: number of timed calls of each.

    Returns:
        Keys of :class:`pmq.runtimes.deployment.Deployment` -> medians in milliseconds, and ``spread`` of the deployed file.
    """

    def eager() -> None:
        with torch.inference_mode(), torch_default():
            model(image)

    with threads_of_operators(threads):
        calls: dict[str, Callable[[], object]] = {n: partial(run, other_inputs.get(n, fed)) for n, run in sessions.items()}
        calls["torch"] = eager
        times = {name: median_spread(timings) for name, timings in interleaved(calls, rounds).items()}
    names = {"file": "latency_ms"} | {name: f"{name}_latency_ms" for name in times if name != "file"}
    return {"spread": times["file"][1]} | {names[name]: median for name, (median, _) in times.items()}
