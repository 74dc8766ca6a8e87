"""Transforms on many architectures: ``python -m pmq.bench.transforms MODEL... [--list FILE] [--out FILE.csv]``.

Each model of timm is made with random weights, its norms and biases perturbed, in a process of its own. The table says what
error each transform would have left in the outputs, which were undone, and the error of all that were kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pmq.bench.isolated import named, tables
from pmq.cli.output import print_table
from pmq.core.recipe import RECIPES
from pmq.graph import analyse
from pmq.models import create_model, model_info
from pmq.models.equivalence import TOLERANCE, Equivalence
from pmq.quant.transforms import Setting, apply_transforms

#: images to compare on
IMAGES = 4


@torch.no_grad()
def perturb(model: nn.Module, seed: int = 0) -> nn.Module:
    """Add noise to norms, biases and gains in place: as they begin, many a rewriting of them changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        elif not bool(parameter.any()):  # as some heads begin
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@torch.no_grad()
def transform_errors(name: str, seed: int = 0) -> dict[str, Any]:
    """Relative error that each transform makes or would make by itself, and of all that are kept together."""
    model = perturb(create_model(name, pretrained=False, seed=seed))
    size = model_info(model).data_config["input_size"]
    images = torch.randn(IMAGES, *size, generator=torch.Generator().manual_seed(seed))
    equivalence = Equivalence(model, images)
    model, _ = analyse(model, images[:1])
    found = apply_transforms(model, RECIPES["best"].transforms, Setting(images, seed), equivalence)
    undone = [rewriting.name for rewriting in found if not rewriting.kept]
    return {
        "model": name,
        **{rewriting.name: rewriting.error for rewriting in found},
        "undone": " ".join(undone),
        "error": equivalence.error(model),
    }


def main() -> None:
    """Print the table; exit with status 1 if an error above the tolerance is left, or a model could not be looked at."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="timm's names")
    parser.add_argument("--list", type=Path, help="file with a name a line")
    parser.add_argument("--out", type=Path, help="CSV to write")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(transform_errors(args.one)))
        return
    names = named(args.models, args.list)
    if not names:
        parser.error("no models: give timm's names, or a file with --list")
    *_, table = tables("pmq.bench.transforms", names, "transforming", args.out)
    if "error" not in table:  # of none could anything be said
        sys.exit(1)
    shown = [[*(f"{v:.1e}" if isinstance(v, float) else v for v in row)] for row in table.itertuples(index=False)]
    print_table(f"relative error of outputs after each transform; above {TOLERANCE:g} it is undone", list(table.columns), shown)
    sys.exit(int(not (table["error"] <= TOLERANCE).all()))


if __name__ == "__main__":
    main()
