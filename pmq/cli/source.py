"""The flags that say which model and which images, as every command has them; and what a run remembers of them."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import Any, get_type_hints

from pmq.cli import options as o


@dataclass(frozen=True)
class Source:
    """Which model and which images; what is not given is nothing."""

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

    def of(self, model: str | None) -> Source:
        """The same with the model's name."""
        return replace(self, model=model)

    def with_flags(self, flags: Mapping[str, Any]) -> Source:
        """The same with other flags where it has none; those that it does not know are passed over.

        What a pruned model was made of is not filled in: what is made then must be typed.
        """
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "base"}
        found: dict[str, Any] = {name: flags.get(name) if value is None else value for name, value in own.items()}
        files = {name: None if found[name] is None else Path(found[name]) for name in ("checkpoint", "class_map")}
        return replace(self, **found | files)

    @property
    def images(self) -> str | None:
        """Where images are, as :func:`pmq.data.open_data` has it."""
        return self.data if self.dataset is None else f"{self.data or ''}::{self.dataset}"

    def line(self) -> str:
        """The flags as they are typed, with a blank before each; of the model what stands in place of MODEL, first."""
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
        """All flags, as a manifest remembers them."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


#: no flag is given
NOTHING = Source()


def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command take a :class:`Source`: on the command line each of its fields but the model is an option of its own."""
    hints = get_type_hints(Source, include_extras=True)
    shared = [field for field in fields(Source) if field.name != "model"]
    parameters = []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        if parameter.annotation is Source:
            parameters += [parameter.replace(name=f.name, annotation=hints[f.name], default=f.default) for f in shared]
            into = name
        else:
            parameters.append(parameter)

    @wraps(command)
    def called(**given: Any) -> Any:
        source = Source(**{field.name: given.pop(field.name) for field in shared})
        return command(**given, **{into: source})

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called
