"""Imports that cases need, once for all workers."""

from __future__ import annotations

import importlib
import os

os.environ["PMQ_PROGRESS"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"  # what is damaged may name weights that lie elsewhere

importlib.import_module("tests.preloaded").preload("onnxruntime", "tests.campaigns.kinds", "tests.campaigns.verdict")
importlib.import_module("torch").set_num_threads(1)
importlib.import_module("tests.shallow").search_little(importlib.import_module("pytest").MonkeyPatch())
