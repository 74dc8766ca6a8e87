"""Coverage of architectures: ``python -m pmq.bench.coverage MODEL... [--list FILE] [--targets NAME...] --out FILE.csv``.

Each model is created with random weights and perturbed norms and biases in a process of its own. A row of the table reports
the share of the model that is searched, whether its multiply-accumulates equal those that torch counts, which transforms were
undone, the errors of W8A8 and W4A4 relative to FP32 on a few images, and for the deployed W8A8 file the failed parts of the proof
and the speedup over FP32 in the same runtime. Models are timm names, ``tv:NAME`` of torchvision, ``hf:FOLDER`` or
``package.module:function``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import pmq
from pmq.bench.isolated import model_names, tables
from pmq.bench.transforms import perturb
from pmq.core.recipe import RECIPES
from pmq.graph import captured
from pmq.graph.macs import count_macs
from pmq.models import create_model, model_info
from pmq.models.equivalence import Equivalence
from pmq.models.torchvision_ops import ensure_torchvision
from pmq.pipeline.subject import Subject
from pmq.quant.transforms import Setting, apply_transforms

#: number of images each for calibration, comparison and proof
IMAGES = 4


def random_model(name: str) -> tuple[nn.Module, Tensor]:
    """Create a model with random weights, and random images ``(N, C, H, W)`` for it."""
    if name.startswith("tv:"):
        ensure_torchvision()
        import torchvision.models

        torch.manual_seed(0)
        module = torchvision.models.get_model(name.removeprefix("tv:"), weights=None)
    else:
        module = create_model(name, pretrained=False)
    module = perturb(module.eval())
    size = model_info(module).data_config["input_size"]
    return module, torch.randn(2 * IMAGES, *size, generator=torch.Generator().manual_seed(0))


def coverage_of(name: str, targets: list[str]) -> dict[str, Any]:
    """Return the row of a model."""
    start = time.perf_counter()
    module, images = random_model(name)
    subject = Subject.of(module, "cpu", images)
    inventory, seconds = subject.inventory, time.perf_counter() - start
    once = {entry.module for entry in inventory.uncovered if not entry.macs}
    row: dict[str, Any] = {
        "model": name,
        "parameters_m": round(sum(p.numel() for p in module.parameters()) / 1e6, 2),
        "gmacs": round(inventory.total_macs / 1e9, 3),
        "macs_searched": 100 * (inventory.covered_share or 0),
        "bytes_searched": 100 * inventory.covered_bytes,
        "macs_agree": count_macs(subject.model, images[:1]) == inventory.macs,
        "uncovered": "; ".join(str(entry) for entry in inventory.uncovered if entry.macs),
        "computed_once": len(once),
        "components": len(inventory.components),
        "stages": len(subject.model.program.stages),
        "capture_s": round(seconds, 1),
    }
    equivalence = Equivalence(subject.module, images[:IMAGES])
    model = captured(subject.module, images[:1])
    rewritings = apply_transforms(model, RECIPES["best"].transforms, Setting(images[:IMAGES]), equivalence)
    row["undone"] = " ".join(rewriting.name for rewriting in rewritings if not rewriting.kept)
    row["transform_error"] = equivalence.error(model)
    row |= _simulated(module, images)
    for target in targets:
        row |= _deployed(module, images, target)
    return row


def _simulated(module: nn.Module, images: Tensor) -> dict[str, Any]:
    whats, calibration = ["w8a8", "w4a4"], images[:IMAGES]
    table = pmq.evaluate(module, whats, [images[IMAGES:]], calibration_images=calibration, recipe="mse", partial=True)
    rows = table.to_dict("records")
    return {
        f"{name}_{key}": row[key]
        for name, row in zip(("w8a8", "w4a4"), rows, strict=True)
        for key in ("agreement", "kl", "feature_error")
    }


def _deployed(module: nn.Module, images: Tensor, target: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as out:
        try:
            deployment = pmq.deploy(
                module,
                "w8a8",
                target,
                images[IMAGES:],
                out,
                calibration_images=images[:IMAGES],
                recipe="mse",
                n_passes=5,
                partial=True,
            )
        except pmq.PmqError as error:
            return {f"{target}_failed": str(error)[:200]}
    size = deployment.proof["size"]
    failed = [name for name, check in deployment.proof.items() if not check.passed]
    return {
        f"{target}_failed": " ".join(failed),
        f"{target}_ratio": deployment.fp32_latency_ms / deployment.latency_ms,
        f"{target}_worst_layer": deployment.proof["layers"].measured,
        f"{target}_bytes_over": size.measured - size.limit,
        f"{target}_agreement": deployment.proof["agreement"].measured,
    }


def main() -> None:
    """Write the table after each model; models that the file already contains are not measured again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names of models")
    parser.add_argument("--list", type=Path, help="file with one name per line")
    parser.add_argument("--targets", nargs="*", default=["onnxruntime", "openvino"])
    parser.add_argument("--out", type=Path, help="CSV to write")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        torch.set_num_threads(1)
        print(json.dumps(coverage_of(args.one, args.targets)))
        return
    names = model_names(args.models, args.list)
    if not names or args.out is None:
        parser.error("name models, or a file with --list, and pass --out")
    known = pd.read_csv(args.out).to_dict("records") if args.out.is_file() else []
    for _ in tables("pmq.bench.coverage", names, "covering", args.out, known, ["--targets", *args.targets]):
        pass


if __name__ == "__main__":
    main()
