"""How long a file takes beside others of the same model, and beside eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from pmq.runtimes.session import Floats, Session
from pmq.runtimes.timing import interleaved, median_spread


def latencies(
    sessions: Mapping[str, Session],
    fed: Floats,
    others: Mapping[str, Floats],
    model: nn.Module,
    image: Tensor,
    threads: int,
    rounds: int,
) -> dict[str, float]:
    """Milliseconds of sessions and of eager PyTorch, in turns.

    Args:
        sessions: by name; that of the deployed file is ``file``.
        fed: what they are given, but those that are given something of ``others``.
        others: see above.
        model: what eager PyTorch computes of ``image`` ``(1, C, H, W)``.
        image: see above.
        threads: of PyTorch.
        rounds: timed calls of each.
    """
    before = torch.get_num_threads()

    def eager() -> None:
        with torch.inference_mode():
            model(image)

    torch.set_num_threads(threads)
    try:
        calls: dict[str, Callable[[], object]] = {n: partial(run, others.get(n, fed)) for n, run in sessions.items()}
        calls["torch"] = eager
        times = {name: median_spread(found) for name, found in interleaved(calls, rounds).items()}
    finally:
        torch.set_num_threads(before)
    names = {"file": "latency_ms"} | {name: f"{name}_latency_ms" for name in times if name != "file"}
    return {"spread": times["file"][1]} | {names[name]: found for name, (found, _) in times.items()}
