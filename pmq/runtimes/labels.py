"""Metadata of a model file about its images and classes, shared by writer and reader; this module does not import torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Json, model_validator

from pmq.core.errors import PmqError
from pmq.core.files import quoted
from pmq.core.progress import message
from pmq.core.task import AUTO, Task, TaskName
from pmq.core.validation import validated
from pmq.runtimes.session import FP32, UINT8, Session

#: prefix of the keys of all texts in a file, and the key of the text that names the target
PREFIX, TARGET = "pmq.", "pmq.target"
#: maximum length of an image's side, in pixels
SIDE = 4096

Side = Annotated[int, Field(ge=1, le=SIDE)]
Mean = Annotated[float, Field(ge=-1e6, le=1e6)]
Deviation = Annotated[float, Field(ge=1e-6, le=1e6)]
Crop = Annotated[float, Field(ge=0.1, le=1)]


class _FileText(BaseModel):
    """Base of the texts in a file, which are validated strictly."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class Preprocess(_FileText):
    """Preprocessing of images, in timm's terms, and the meaning of the outputs (:class:`pmq.core.task.Task`)."""

    model_config = ConfigDict(extra="forbid")

    input_size: tuple[Side, Side, Side]
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
    crop_pct: Crop
    crop_mode: Literal["center", "squash", "border"] | None = None
    mean: tuple[Mean, ...]
    std: tuple[Deviation, ...]
    num_classes: Annotated[int, Field(ge=0, le=2**31)]
    task: TaskName | Literal["auto"] = "auto"
    values: Literal["float", "uint8"] = "float"
    layout: Literal["nchw", "nhwc"] = "nchw"

    @model_validator(mode="after")
    def _fits_itself(self) -> Preprocess:
        channels = self.input_size[0]
        if not len(self.mean) == len(self.std) == channels:
            counts = f"{len(self.mean)} and {len(self.std)} values"
            raise ValueError(f"mean and std have {counts}; images of {channels} channel(s) need {channels} of each")
        Task.of(self.task, self.num_classes)
        return self

    @property
    def meaning(self) -> TaskName:
        """The task; a file that names none has the task that its number of classes implies."""
        return Task.of(self.task, self.num_classes).name


class Description(_FileText):
    """Texts of a file, each of them JSON under the key ``pmq.`` plus its name."""

    preprocess: Json[Preprocess]
    classes: Json[tuple[str, ...]] = Field("[]", validate_default=True)

    @model_validator(mode="after")
    def _names_all(self) -> Description:
        outputs, named = self.preprocess.num_classes, len(self.classes)
        allowed = {0, outputs, 2} if self.preprocess.meaning == "binary" else {0, outputs}
        if named not in allowed:
            raise ValueError(f"{named} classes are named; a model with {outputs} output(s) may have {_either(allowed)} names")
        return self

    def check(self, session: Session, path: Path) -> None:
        """Raise PmqError if the inputs or outputs of a file's graph differ from those that its texts describe."""
        (channels, *sides), outputs = self.preprocess.input_size, self.preprocess.num_classes
        image = (1, channels, *sides) if self.preprocess.layout == "nchw" else (1, *sides, channels)
        kind = FP32 if self.preprocess.values == "float" else UINT8
        sides_of_graph = (("takes", session.inputs, image, kind), ("returns", session.outputs, (1, outputs), FP32))
        for verb, ports, shape, numbers in sides_of_graph:
            if len(ports) != 1 or not ports[0].fits(shape, numbers):
                actual = ", ".join(map(str, ports)) or "nothing"
                expected = f"its texts state {numbers} {list(shape)}"
                raise PmqError(
                    f"the graph of {quoted(path)} {verb} {actual}, but {expected}: the file is damaged; deploy the model again"
                )


def _either(counts: set[int]) -> str:
    return " or ".join(map(str, sorted(counts)))


def described(
    data_config: Mapping[str, Any],
    num_classes: int,
    classes: list[str],
    task: str = AUTO,
    values: str = "float",
    layout: str = "nchw",
) -> dict[str, str]:
    """Return the texts to store in a file; none, with a message, if ``pmq run`` could not prepare the model's images.

    Raises:
        PmqError: the number of values of mean or std differs from the images' number of channels.
    """
    if "mean" not in data_config or "std" not in data_config:
        message(
            "the model does not state how its images are prepared, and pmq does not guess: the file takes prepared images, and "
            "pmq run cannot use it; pass `mean` and `std` (keys of data_config in Python)"
        )
        return {}
    channels, counts = data_config["input_size"][0], [len(data_config[name]) for name in ("mean", "std")]
    if counts != [channels, channels]:
        raise PmqError(
            f"the model's images have {channels} channel(s), but mean and std have {counts[0]} and {counts[1]} values; "
            "pass `mean` and `std` (keys of data_config in Python)"
        )
    preprocess = {key: data_config[key] for key in Preprocess.model_fields if key in data_config}
    preprocess |= {"values": values, "layout": layout}
    preprocess |= {"num_classes": num_classes, "task": Task.of(task, num_classes).name}
    texts = {"preprocess": json.dumps(preprocess), "classes": json.dumps(list(classes))}
    try:
        description = validated(Description, texts, "the model's data config")
    except PmqError as error:
        message(f"the file will not state how its images are prepared, so pmq run cannot use it: {error}")
        return {}
    return {f"{PREFIX}{name}": text for name, text in description.model_dump(round_trip=True).items()}


def known_preprocess(metadata: Mapping[str, str], path: Path) -> Preprocess | None:
    """Return the preprocessing that a file states; None if it states none."""
    return read_description(metadata, path).preprocess if f"{PREFIX}preprocess" in metadata else None


def read_description(metadata: Mapping[str, str], path: Path) -> Description:
    """Return the preprocessing and the class names of a file.

    Raises:
        PmqError: the file states no preprocessing, or a text is invalid.
    """
    texts = {name: metadata[PREFIX + name] for name in Description.model_fields if PREFIX + name in metadata}
    if "preprocess" not in texts:
        raise PmqError(f"{quoted(path)} does not state how its images are prepared: it was not written by pmq deploy")
    return validated(Description, texts, f"texts of {quoted(path)}")


def read_texts(text: str, path: Path) -> dict[str, str]:
    """Return the texts that a file stores together as one JSON object."""
    texts: dict[str, str] = validated(Json[dict[str, str]], text or "{}", f"texts of {quoted(path)}")
    return texts
