"""The allocation: the one file that says which bits every tensor of a model gets."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator
from typing_extensions import TypedDict

from pmq.core.choice import Assignment, ComponentChoice
from pmq.core.description import ComponentDescription, Descriptions, check_choices, check_parameters, check_tensors
from pmq.core.errors import PmqError
from pmq.core.files import is_there, quoted, read_json, write_bytes, write_text
from pmq.core.patches import PatchMap
from pmq.core.pruning import PruningPlan
from pmq.core.recipe import Recipe
from pmq.core.task import TaskName
from pmq.core.tensors import TensorFile
from pmq.core.validation import shown, validated

SCHEMA_VERSION: Literal[2] = 2


def pmq_version() -> str:
    """Version of the installed package."""
    try:
        return version("pmq")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0+unknown"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Preprocessing(TypedDict, total=False):
    """What we know of timm's description of preprocessing; there may be more."""

    input_size: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=3, max_length=3)]
    interpolation: str
    mean: list[float]
    std: list[float]
    crop_pct: Annotated[float, Field(gt=0)]
    crop_mode: str


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
    num_classes: int = Field(ge=0)
    weights_sha256: str
    data_config: dict[str, Any] = Field(default_factory=dict)

    @field_validator("data_config")
    @classmethod
    def _known(cls, data: dict[str, Any]) -> dict[str, Any]:
        validated(_Preprocessing, data, "preprocessing")
        return data


class CalibrationInfo(_Strict):
    """Which images fixed the ranges: the hash of their preprocessed values, in order.

    ``n_held_out`` further images, drawn by the same seed, judged the candidates of the search: an evaluation on the
    same folder leaves out both.
    """

    sha256: str
    n_images: int = Field(ge=0)
    n_held_out: int = Field(default=0, ge=0)
    seed: int | None = Field(default=None, ge=0)

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
    """A bit allocation. ``components`` maps ``blocks.0.attn.qkv.weight`` and so on to choices, ``inventory`` to what they are.

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
    inventory: dict[str, ComponentDescription] | None = None
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
        self.check_name(model.name)
        if self.model.weights_sha256 != model.weights_sha256:
            raise PmqError(
                f"the allocation was calibrated on weights {self.model.weights_sha256[:12]} of {model.name!r}, these are "
                f"{model.weights_sha256[:12]}; pass their checkpoint, or --recalibrate to fit the ranges anew"
            )

    def check_name(self, name: str) -> None:
        """Raise unless the allocation was made for a model of this name."""
        if self.model.name != name and not any(":" in each for each in (self.model.name, name)):  # of a place weights tell
            raise PmqError(f"the allocation is of model {self.model.name!r}, not of {name!r}; search that model anew")

    def check(self, what: str, of: Descriptions | None = None) -> None:
        """Raise unless choices, parameters and tensors fit together and the components ``of`` a model, or its own inventory.

        What an allocation of choices alone lacks, nobody has computed yet.
        """
        of = self.inventory if of is None else of
        check_choices(self.components, of, what)
        if self.tensors_sha256 is not None or self.parameters:
            check_parameters(self.components, self.patches, of, what)
        if self._tensors is not None and of is not None:
            check_tensors(self.components, of, self._tensors.arrays(), what)

    def save(self, path: Path | str) -> Path:
        """Write the JSON file, and the tensors beside it.

        Raises:
            PmqError: it is called otherwise than ``*.json``, or cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".json":
            raise PmqError(f"cannot write the allocation {quoted(path)}: its name must end in .json, its tensors lie beside it")
        write_text(path, self.model_dump_json(indent=1) + "\n")  # first: tensors by themselves belong to nobody
        if self._tensors is not None:
            write_bytes(path.with_suffix(".safetensors"), self._tensors.data)
        return path

    @classmethod
    def load(cls, path: Path | str, carried_out: bool = True) -> Allocation:
        """Read and validate a JSON file, and the tensors beside it if they are there.

        Where an allocation will not be computed with as it was ``carried_out``, but anew from images, its parameters and
        tensors may be whatever they are.

        Raises:
            PmqError: the file is absent, no JSON, of another schema version, or names unknown fields or bit-widths; or
                the tensors beside it are others; or choices, parameters and tensors do not fit together.
        """
        path = Path(path)
        what = f"allocation {quoted(path)}"
        data = read_json(path, "allocation", "; `pmq search` writes one")
        if "components" not in data:
            raise PmqError(f"{what} has no 'components': it is no allocation of pmq")
        if data.get("schema_version") != SCHEMA_VERSION:
            raise PmqError(f"{what} has schema_version {shown(data.get('schema_version'))}; this pmq reads {SCHEMA_VERSION}")
        allocation = validated(cls, data, what)
        if not carried_out:
            check_choices(allocation.components, allocation.inventory, what)
            return allocation
        beside = path.with_suffix(".safetensors")
        if allocation.tensors_sha256 is not None and is_there(beside, "tensors"):
            tensors = TensorFile.read(beside)
            if tensors.sha256 != allocation.tensors_sha256:
                raise PmqError(f"{quoted(beside)} does not hold the tensors of {what}; search or export it anew")
            allocation = allocation.with_tensors(tensors)
        allocation.check(what)
        return allocation

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON Schema of the file."""
        schema = cls.model_json_schema()
        schema["required"] = ["schema_version", *schema["required"]]
        return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


__all__ = [
    "SCHEMA_VERSION",
    "Allocation",
    "BudgetInfo",
    "CalibrationInfo",
    "ModelInfo",
    "Producer",
    "pmq_version",
    "validated",
]
