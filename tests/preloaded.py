"""What commands need, imported once in a process that forks those that tests run: none of it starts a thread."""

from __future__ import annotations

import importlib

_NAMES = (
    *("matplotlib.pyplot", "onnx", "plotly.offline", "safetensors.torch", "scipy.stats", "timm.data"),
    *("torch._dynamo", "torch.export._trace"),
    *("pmq.api", "pmq.cli", "pmq.runtimes", "pmq.reporting.page", "tests.shallow"),
)


def preload(*more: str) -> None:
    """Import what commands need, and ``more``."""
    importlib.import_module("pmq.models.torchvision_ops").ensure_torchvision()
    for name in (*_NAMES, *more):
        importlib.import_module(name)


def preload_default_model() -> None:
    """Capture the embedded model, which most commands open: those that are forked have its graph.

    Where torch has several threads it is left: a process that has begun them cannot be forked.
    """
    import torch

    from pmq.graph import captured
    from pmq.models import create_model, model_info

    if torch.get_num_threads() == 1:
        model = create_model()
        captured(model, torch.zeros(1, *model_info(model).data_config["input_size"]))
