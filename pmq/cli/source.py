"""The flags that select the model and the images, which all commands share and runs record."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pmq.cli import options as o


@dataclass(frozen=True)
class Source:
    """Flags that select the model and the images; None means that a flag was not given."""

    base: o.Base = None
    checkpoint: o.Checkpoint = None
    num_classes: o.NumClasses = None
    model_kwargs: o.ModelKwargs = None
    input_size: o.InputSize = None
    img_size: o.ImgSize = None
    in_chans: o.InChans = None
    gp: o.GlobalPool = None
    output: o.Output = None
    pretrained: o.Pretrained = None
    data: o.Data = None
    dataset: o.Dataset = None
    input_key: o.InputKey = None
    target_key: o.TargetKey = None
    class_map: o.ClassMap = None
    class_order: o.ClassOrder = None
    split: o.Split = None
    crop_pct: o.CropPct = None
    mean: o.Mean = None
    std: o.Std = None
    interpolation: o.Interpolation = None
    model: str | None = None

    def with_model(self, model: str | None) -> Source:
        """Return a copy with the name of the model."""
        return replace(self, model=model)

    def with_flags(self, flags: Mapping[str, Any]) -> Source:
        """Return a copy whose missing flags are filled from ``flags``; unknown flags are ignored.

        The unpruned model of a pruned one (``base``) is not filled in, because the user must type it.
        """
        typed = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "base"}
        completed: dict[str, Any] = {name: flags.get(name) if value is None else value for name, value in typed.items()}
        files = {name: None if completed[name] is None else Path(completed[name]) for name in ("checkpoint", "class_map")}
        return replace(self, **completed | files)

    @property
    def images(self) -> str | None:
        """The location of the images, in the form that :func:`pmq.data.open_data` takes."""
        return self.data if self.dataset is None else f"{self.data or ''}::{self.dataset}"

    def line(self) -> str:
        """Return the model and the flags as they are typed on the command line, with a space before each word."""
        words = [] if self.model is None else [self.model]
        for name, value in self.flags().items():
            flag = f"--{name.replace('_', '-')}"
            if name == "model" or value is None:
                continue
            if isinstance(value, bool):
                words.append(flag if value else f"--no-{flag.removeprefix('--')}")
            else:
                words += [flag, *map(str, value if isinstance(value, list | tuple) else [value])]
        return "".join(f" {shlex.quote(word)}" for word in words)

    def flags(self) -> dict[str, Any]:
        """Return all flags in the form that a manifest records."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


#: a source without any flag
NO_FLAGS = Source()
