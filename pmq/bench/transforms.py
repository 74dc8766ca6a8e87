"""Transforms on many architectures: ``python -m pmq.bench.transforms MODEL... [--list FILE] [--out FILE.csv]``.

Each timm model is created with random weights and perturbed norms and biases in a process of its own. The table contains the
error that each transform causes at the outputs, which transforms were undone, and the error of all remaining transforms.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pmq.bench.isolated import model_names, tables
from pmq.cli.output import print_table
from pmq.core.recipe import RECIPES
from pmq.graph import analyse
from pmq.models import create_model, model_info
from pmq.models.equivalence import TOLERANCE, Equivalence
from pmq.quant.transforms import Setting, apply_transforms

#: number of images on which outputs are compared
IMAGES = 4


@torch.no_grad()
def perturb(model: nn.Module, seed: int = 0) -> nn.Module:
    """Add noise to norms, biases and gains in place, because many rewritings do not change their initial values."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        elif not bool(parameter.any()):  # some heads are initialized to zeros
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@torch.no_grad()
def transform_errors(name: str, seed: int = 0) -> dict[str, Any]:
    """Return the relative error of each transform by itself and of all remaining transforms together."""
    model = perturb(create_model(name, pretrained=False, seed=seed))
    size = model_info(model).data_config["input_size"]
    images = torch.randn(IMAGES, *size, generator=torch.Generator().manual_seed(seed))
    equivalence = Equivalence(model, images)
    model, _ = analyse(model, images[:1])
    rewritings = apply_transforms(model, RECIPES["best"].transforms, Setting(images, seed), equivalence)
    undone = [rewriting.name for rewriting in rewritings if not rewriting.kept]
    return {
        "model": name,
        **{rewriting.name: rewriting.error for rewriting in rewritings},
        "undone": " ".join(undone),
        "error": equivalence.error(model),
    }


def main() -> None:
    """Print the table; exit with status 1 if a remaining error exceeds the tolerance or a model failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names of timm models")
    parser.add_argument("--list", type=Path, help="file with one name per line")
    parser.add_argument("--out", type=Path, help="CSV to write")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(transform_errors(args.one)))
        return
    names = model_names(args.models, args.list)
    if not names:
        parser.error("no models; name timm models, or pass a file with --list")
    *_, table = tables("pmq.bench.transforms", names, "transforming", args.out)
    if "error" not in table:  # all models failed
        sys.exit(1)
    shown = [[*(f"{v:.1e}" if isinstance(v, float) else v for v in row)] for row in table.itertuples(index=False)]
    print_table(
        f"relative error of the outputs after each transform; transforms above {TOLERANCE:g} are undone",
        list(table.columns),
        shown,
    )
    sys.exit(int(not (table["error"] <= TOLERANCE).all()))


if __name__ == "__main__":
    main()
