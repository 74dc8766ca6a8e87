"""Imports that cases need, once for all workers: none of them starts a thread."""

from __future__ import annotations

import importlib
import os

os.environ["PMQ_PROGRESS"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"  # what is damaged may name weights that lie elsewhere

importlib.import_module("pmq.models.torchvision_ops").ensure_torchvision()
for name in (
    *("matplotlib.pyplot", "onnx", "onnxruntime", "plotly.graph_objects", "safetensors.torch", "timm.data"),
    *("pmq.api", "pmq.cli", "pmq.deploy", "pmq.report.page", "tests.campaigns.kinds", "tests.campaigns.verdict"),
):
    importlib.import_module(name)
importlib.import_module("torch").set_num_threads(1)
importlib.import_module("tests.shallow").search_little(importlib.import_module("pytest").MonkeyPatch())
