"""Models of other libraries, end to end: ``python -m pmq.bench.families [NAME...] [--out FILE.csv]``.

Small configurations of Hugging Face's transformers, torchvision and open_clip, with random weights: each is searched at 4 bit,
evaluated, and deployed as W8A8 on onnxruntime and OpenVINO, in a process of its own. Families whose library is not installed
are skipped with a message.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

import pmq
from pmq.bench.isolated import tables
from pmq.bench.transforms import perturb
from pmq.cli.output import print_table
from pmq.core.progress import message
from pmq.models.torchvision_ops import ensure_torchvision

#: configuration of the small models, for images of 32 pixels (56 for Swin)
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
OF_32: dict[str, Any] = {**SMALL, "image_size": 32, "patch_size": 8}
PREPARED = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "crop_pct": 1.0}
TARGETS = ("onnxruntime", "openvino")


def makers() -> Mapping[str, tuple[str, int, Callable[[Any], nn.Module]]]:
    """Return library, image side in pixels and a function that creates the model from the library, by name."""
    return {
        "hf vit": ("transformers", 32, lambda t: t.ViTForImageClassification(t.ViTConfig(**OF_32, num_labels=7))),
        "hf dinov2": ("transformers", 32, lambda t: t.Dinov2Model(t.Dinov2Config(**OF_32))),
        "hf clip vision": ("transformers", 32, lambda t: t.CLIPVisionModelWithProjection(t.CLIPVisionConfig(**OF_32))),
        "hf siglip vision": ("transformers", 32, lambda t: t.SiglipVisionModel(t.SiglipVisionConfig(**OF_32))),
        "hf swin": (
            "transformers",
            56,
            lambda t: t.SwinForImageClassification(
                t.SwinConfig(embed_dim=24, depths=[2, 2], num_heads=[2, 4], image_size=56, num_labels=7)
            ),
        ),
        "torchvision vit": ("torchvision", 32, lambda t: t.models.VisionTransformer(32, 8, 2, 4, 64, 128, num_classes=7)),
        "torchvision swin": (
            "torchvision",
            56,
            lambda t: t.models.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [7, 7], num_classes=7),
        ),
        "open_clip vit": ("open_clip", 32, _of_open_clip),
    }


def _of_open_clip(open_clip: Any) -> nn.Module:
    tower: nn.Module = open_clip.transformer.VisionTransformer(
        image_size=32, patch_size=8, width=64, layers=2, heads=4, mlp_ratio=2.0, output_dim=32
    )
    return tower


def end_to_end(name: str) -> dict[str, Any]:
    """Search, evaluate and deploy a model, and return its row of the table."""
    library, side, make = makers()[name]
    ensure_torchvision()
    torch.manual_seed(0)
    module = perturb(make(import_module(library)).eval())
    images = torch.randn(48, 3, side, side, generator=torch.Generator().manual_seed(0))
    result = pmq.search(
        module,
        images,
        "4bit",
        options=pmq.SearchOptions(recipe="fast", data_config=PREPARED, n_rounds=1, max_evals=8),
        split=pmq.DataSplit(16, 32),
    )
    (evaluation,) = pmq.evaluate(module, result.allocation, [images]).to_dict("records")
    row: dict[str, Any] = {
        "model": name,
        "macs_searched": result.coverage.macs_searched,
        "agreement": evaluation["agreement"],
        "error": evaluation["feature_error"] if pd.isna(evaluation["kl"]) else evaluation["kl"],
    }
    for target in TARGETS:
        with tempfile.TemporaryDirectory() as out:
            deployed = pmq.deploy(
                module, "w8a8", target, images[:16], out, calibration_images=images[16:], data_config=PREPARED, n_passes=5
            )
        row[target] = " ".join(part for part, check in deployed.proof.items() if not check.passed) or "proved"
    return row


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="names of models (default: all)")
    parser.add_argument("--out", type=Path, help="CSV to write")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        torch.set_num_threads(1)
        print(json.dumps(end_to_end(args.one)))
        return
    names = []
    for name in args.names or makers():
        try:
            ensure_torchvision()
            import_module(makers()[name][0])
            names.append(name)
        except ImportError:
            message(f"{name}: {makers()[name][0]} is not installed")
    for table in tables("pmq.bench.families", names, "end to end", args.out):
        rows = table.to_numpy().tolist()
    print_table("small models with random weights, searched at 4 bit and deployed as W8A8", list(table.columns), rows)


if __name__ == "__main__":
    main()
