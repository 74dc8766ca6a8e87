"""The model and the images of a benchmark, as its command line names them."""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import nn

from pmq.core.memory import keep_freed_memory
from pmq.data import Data, open_data
from pmq.models import create_model, model_info


def parser(description: str | None, *before: str) -> argparse.ArgumentParser:
    """A command line with what every benchmark of a model needs, ``before`` being its first arguments."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in before:
        found.add_argument(name)
    found.add_argument("model", nargs="?")
    found.add_argument("--checkpoint")
    found.add_argument("--data")
    found.add_argument("--crop-pct", type=float)
    found.add_argument("--limit", type=int, help="images to judge by; all without")
    found.add_argument("--out", type=Path, required=True)
    return found


def opened(args: argparse.Namespace) -> tuple[nn.Module, Data]:
    """The model and its images."""
    keep_freed_memory()
    model = create_model(args.model, args.checkpoint)
    return model, open_data(args.data, model_info(model), crop_pct=args.crop_pct)
