"""The allocation: the one file that says which bits every tensor of a model gets."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from pmq.core.choice import Assignment, ComponentChoice
from pmq.core.errors import PmqError
from pmq.core.files import read_json, write_bytes, write_text
from pmq.core.patches import PatchMap
from pmq.core.pruning import PruningPlan
from pmq.core.recipe import Recipe
from pmq.core.task import TaskName
from pmq.core.tensors import TensorFile

SCHEMA_VERSION: Literal[2] = 2
Model = TypeVar("Model", bound=BaseModel)


def pmq_version() -> str:
    """Version of the installed package."""
    try:
        return version("pmq")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0+unknown"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Producer(_Strict):
    """Who wrote the file."""

    name: str = "pmq"
    version: str = Field(default_factory=pmq_version)


class ModelInfo(_Strict):
    """Which model the bits are for.

    ``name`` is timm's ``arch.tag``; ``weights_sha256`` hashes names, shapes and values of the state dict;
    ``data_config`` is timm's description of preprocessing.
    """

    name: str
    num_classes: int
    weights_sha256: str
    data_config: dict[str, Any] = Field(default_factory=dict)


class CalibrationInfo(_Strict):
    """Which images fixed the ranges: the hash of their preprocessed values, in order.

    ``n_held_out`` further images, drawn by the same seed, judged the candidates of the search: an evaluation on the
    same folder leaves out both.
    """

    sha256: str
    n_images: int
    n_held_out: int = 0
    seed: int | None = None

    @property
    def images_used(self) -> int:
        """Of a folder; the others may judge."""
        return self.n_images + self.n_held_out


class BudgetInfo(_Strict):
    """What was asked, what that means in figures, and what is achieved."""

    text: str
    limits: dict[str, float | None]
    achieved: dict[str, float]


class Allocation(_Strict):
    """A bit allocation. ``components`` maps ``blocks.0.attn.qkv.weight`` and so on to choices.

    Of a pruned model ``model`` tells what it was before, and ``pruning`` what is left of it.

    The rewritten parameters and the weights' codes lie beside it, in ``<name>.safetensors`` with hash
    ``tensors_sha256``: with them no images are needed to compute what was simulated.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    producer: Producer = Field(default_factory=Producer)
    model: ModelInfo
    calibration: CalibrationInfo | None = None
    target: str | None = None
    space: str
    task: TaskName | None = None
    recipe: Recipe
    components: dict[str, ComponentChoice]
    patches: PatchMap | None = None
    pruning: PruningPlan | None = None
    budget: BudgetInfo | None = None
    metrics: dict[str, float | None] = Field(default_factory=dict)
    tensors_sha256: str | None = None
    _tensors: TensorFile | None = PrivateAttr(default=None)

    @property
    def tensors(self) -> TensorFile | None:
        """The tensors, if they are at hand."""
        return self._tensors

    def with_tensors(self, tensors: TensorFile) -> Allocation:
        """Give the same allocation with its tensors."""
        new = self.model_copy(update={"tensors_sha256": tensors.sha256})
        new._tensors = tensors
        return new

    @property
    def assignment(self) -> Assignment:
        """Component name to choice."""
        return {name: c.choice for name, c in self.components.items()}

    @property
    def parameters(self) -> dict[str, dict[str, list[float]]]:
        """Calibrated parameters of the quantized activations."""
        return {name: c.parameters for name, c in self.components.items() if c.parameters is not None}

    def check_model(self, model: ModelInfo) -> None:
        """Raise unless the allocation was made for ``model``."""
        if self.model.name != model.name:
            raise PmqError(f"the allocation is of model {self.model.name!r}, not of {model.name!r}; search that model anew")
        if self.model.weights_sha256 != model.weights_sha256:
            raise PmqError(
                f"the allocation was calibrated on weights {self.model.weights_sha256[:12]} of {model.name!r}, these are "
                f"{model.weights_sha256[:12]}; pass their checkpoint, or --recalibrate to fit the ranges anew"
            )

    def save(self, path: Path | str) -> Path:
        """Write the JSON file, and the tensors beside it."""
        path = Path(path)
        if self._tensors is not None:
            write_bytes(path.with_suffix(".safetensors"), self._tensors.data)
        return write_text(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Allocation:
        """Read and validate a JSON file, and the tensors beside it if they are there.

        Raises:
            PmqError: the file is absent, no JSON, of another schema version, or names unknown fields or bit-widths; or
                the tensors beside it are others.
        """
        path = Path(path)
        data = read_json(path, "allocation", "; `pmq search` writes one")
        if "components" not in data:
            raise PmqError(f"allocation {str(path)!r} has no 'components': it is no allocation of pmq")
        if data.get("schema_version") != SCHEMA_VERSION:
            found = data.get("schema_version")
            raise PmqError(f"allocation {str(path)!r} has schema_version {found!r}; this pmq reads {SCHEMA_VERSION}")
        allocation = validated(cls, data, f"allocation {str(path)!r}")
        beside = path.with_suffix(".safetensors")
        if allocation.tensors_sha256 is None or not beside.is_file():
            return allocation
        tensors = TensorFile(beside.read_bytes())
        if tensors.sha256 != allocation.tensors_sha256:
            raise PmqError(f"{str(beside)!r} does not hold the tensors of allocation {str(path)!r}; search or export it anew")
        return allocation.with_tensors(tensors)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON Schema of the file."""
        schema = cls.model_json_schema()
        schema["required"] = ["schema_version", *schema["required"]]
        return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def validated(cls: type[Model], data: Any, what: str) -> Model:
    """Validate ``data``, telling the first fault as one line that names place, value and rule."""
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"]) or "top level"
        rule = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            rule = f"unknown key; allowed here are {', '.join(_fields_at(cls, first['loc'][:-1]))}"
            raise PmqError(f"{what}: {place}: {rule}") from None
        raise PmqError(f"{what}: {place} = {first['input']!r}: {rule}"[:600]) from None


def _fields_at(cls: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Name the fields of the model found by walking ``location``; the outermost ones where the walk ends early."""
    for step in location:
        field = cls.model_fields.get(str(step))
        inner = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        models = [a for a in inner if isinstance(a, type) and issubclass(a, BaseModel)]
        cls = models[0] if models else cls
    return list(cls.model_fields)
