"""What a model file tells of its images and classes: one definition for writing and for reading. No torch here."""

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

#: before the name of each text that is kept in a file, and the key of that which names the target
PREFIX, TARGET = "pmq.", "pmq.target"
#: pixels of an image's side, at most
SIDE = 4096

Side = Annotated[int, Field(ge=1, le=SIDE)]
Mean = Annotated[float, Field(ge=-1e6, le=1e6)]
Deviation = Annotated[float, Field(ge=1e-6, le=1e6)]
Crop = Annotated[float, Field(ge=0.1, le=1)]


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class Preprocess(_Told):
    """How images are prepared, in timm's words, and what the outputs mean (:class:`pmq.core.task.Task`)."""

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
        """The task, which a file that names none has by its number of classes."""
        return Task.of(self.task, self.num_classes).name


class Description(_Told):
    """Texts of a file, each of them JSON under a key of its own, ``pmq.`` before its name."""

    preprocess: Json[Preprocess]
    classes: Json[tuple[str, ...]] = Field("[]", validate_default=True)

    @model_validator(mode="after")
    def _names_all(self) -> Description:
        outputs, named = self.preprocess.num_classes, len(self.classes)
        allowed = {0, outputs, 2} if self.preprocess.meaning == "binary" else {0, outputs}
        if named not in allowed:
            raise ValueError(f"{named} classes are named; a model with {outputs} output(s) has {_either(allowed)} names")
        return self

    def check(self, session: Session, path: Path) -> None:
        """Raise if a file's graph takes other images, or gives other outputs, than its texts tell of."""
        (channels, *sides), outputs = self.preprocess.input_size, self.preprocess.num_classes
        image = (1, channels, *sides) if self.preprocess.layout == "nchw" else (1, *sides, channels)
        kind = FP32 if self.preprocess.values == "float" else UINT8
        of = (("takes", session.inputs, image, kind), ("gives", session.outputs, (1, outputs), FP32))
        for does, ports, wanted, numbers in of:
            if len(ports) != 1 or not ports[0].fits(wanted, numbers):
                found = ", ".join(map(str, ports)) or "nothing"
                told = f"its texts tell of {numbers} {list(wanted)}"
                raise PmqError(f"the graph of {quoted(path)} {does} {found}, but {told}: the file is damaged; deploy it anew")


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
    """Texts to keep in a file; none, which is told, where ``pmq run`` could not prepare images of such a model.

    Raises:
        PmqError: images are to be prepared by figures of other channels than they have.
    """
    if "mean" not in data_config or "std" not in data_config:
        message(
            "the model does not say how its images are prepared, and nothing is guessed: the file takes prepared images, and "
            "pmq run cannot use it; pass data_config={'mean': ..., 'std': ...} to deploy"
        )
        return {}
    channels, counts = data_config["input_size"][0], [len(data_config[name]) for name in ("mean", "std")]
    if counts != [channels, channels]:
        raise PmqError(
            f"the model's images have {channels} channel(s), and mean and std {counts[0]} and {counts[1]} figures; "
            "pass data_config={'mean': ..., 'std': ...}, on the command line --mean and --std"
        )
    preprocess = {key: data_config[key] for key in Preprocess.model_fields if key in data_config}
    preprocess |= {"values": values, "layout": layout}
    preprocess |= {"num_classes": num_classes, "task": Task.of(task, num_classes).name}
    texts = {"preprocess": json.dumps(preprocess), "classes": json.dumps(list(classes))}
    try:
        made = validated(Description, texts, "the model's data config")
    except PmqError as error:
        message(f"the file will not tell how its images are prepared, so pmq run cannot use it: {error}")
        return {}
    return {f"{PREFIX}{name}": text for name, text in made.model_dump(round_trip=True).items()}


def known_preprocess(metadata: Mapping[str, str], path: Path) -> Preprocess | None:
    """How a file says that its images are prepared; nothing where it does not."""
    return read_description(metadata, path).preprocess if f"{PREFIX}preprocess" in metadata else None


def read_description(metadata: Mapping[str, str], path: Path) -> Description:
    """Preprocessing and class names of a file.

    Raises:
        PmqError: the file tells of neither, or of what cannot be.
    """
    texts = {name: metadata[PREFIX + name] for name in Description.model_fields if PREFIX + name in metadata}
    if "preprocess" not in texts:
        raise PmqError(f"{quoted(path)} does not tell how its images are prepared: it was not written by pmq deploy")
    return validated(Description, texts, f"texts of {quoted(path)}")


def read_texts(text: str, path: Path) -> dict[str, str]:
    """Texts that a file keeps as one, which is JSON."""
    texts: dict[str, str] = validated(Json[dict[str, str]], text or "{}", f"texts of {quoted(path)}")
    return texts
