"""The allocation: the file that defines the bit-width of every tensor of a model."""

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
from pmq.core.merging import MergingPlan
from pmq.core.patches import PatchMap
from pmq.core.pruning import PruningPlan
from pmq.core.recipe import Recipe
from pmq.core.task import TaskName
from pmq.core.tensors import TensorFile
from pmq.core.validation import shown, validated

SCHEMA_VERSION: Literal[2] = 2


def pmq_version() -> str:
    """Return the version of the installed package."""
    try:
        return version("pmq")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0+unknown"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Preprocessing(TypedDict, total=False):
    """The checked keys of timm's data config; there may be more."""

    input_size: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=3, max_length=3)]
    interpolation: str
    mean: list[float]
    std: list[float]
    crop_pct: Annotated[float, Field(gt=0)]
    crop_mode: str


class Producer(_Strict):
    """The program that wrote the file."""

    name: str = "pmq"
    version: str = Field(default_factory=pmq_version)


class ModelInfo(_Strict):
    """The model that an allocation is for.

    ``name`` is timm's ``arch.tag``; ``weights_sha256`` is a hash of names, shapes and values of the state dict;
    ``data_config`` is the preprocessing in timm's terms.
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
    """The images that calibrated: a hash of their preprocessed values, in order.

    ``n_held_out`` further images, drawn by the same seed, evaluated the candidates of the search; an evaluation on the same
    folder excludes both.
    """

    sha256: str
    n_images: int = Field(ge=0)
    n_held_out: int = Field(default=0, ge=0)
    seed: int | None = Field(default=None, ge=0)

    @property
    def images_used(self) -> int:
        """Number of images that an evaluation on the same folder must exclude."""
        return self.n_images + self.n_held_out


class BudgetInfo(_Strict):
    """The budget as given, its cost limits, and the achieved costs."""

    text: str
    limits: dict[str, float | None]
    achieved: dict[str, float]


class Allocation(_Strict):
    """A bit-width allocation.

    ``components`` maps names such as ``blocks.0.attn.qkv.weight`` to choices, ``inventory`` to descriptions of the components.
    Of a pruned model, ``model`` describes the unpruned model, and ``pruning`` the channels that remain. ``merging`` says how many
    tokens are merged behind each block.

    The transformed parameters and the codes of the weights are in ``<name>.safetensors`` beside the file, with the hash
    ``tensors_sha256``; with them the quantized model is built without images.
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
    merging: MergingPlan | None = None
    budget: BudgetInfo | None = None
    metrics: dict[str, float | None] = Field(default_factory=dict)
    tensors_sha256: str | None = None
    _tensors: TensorFile | None = PrivateAttr(default=None)

    @property
    def tensors(self) -> TensorFile | None:
        """The tensors, or None if they were not loaded."""
        return self._tensors

    def with_tensors(self, tensors: TensorFile) -> Allocation:
        """Return the allocation with its tensors."""
        new = self.model_copy(update={"tensors_sha256": tensors.sha256})
        new._tensors = tensors
        return new

    @property
    def whole(self) -> bool:
        """Whether every tensor between operators has bits, as targets need that compute with integers alone."""
        return any(name.endswith(".tensor") for name in self.components)

    @property
    def is_fp32(self) -> bool:
        """Whether all components stay in FP32, as in a model that is only pruned."""
        return all(choice.is_fp32 for choice in self.components.values())

    @property
    def norms_written_out(self) -> bool:
        """Whether the tensors inside of norms have bits, for targets that have no norm in integers."""
        return any(name.endswith(".sqrt.tensor") for name in self.components)

    @property
    def assignment(self) -> Assignment:
        """The choice of each component."""
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
                f"{model.weights_sha256[:12]}; pass their checkpoint, or `recalibrate` to fit the ranges again"
            )

    def check_name(self, name: str) -> None:
        """Raise unless the allocation was made for a model of this name."""
        if self.model.name != name and not any(
            ":" in each for each in (self.model.name, name)
        ):  # models named by a place are told apart by their weights
            raise PmqError(f"the allocation is of model {self.model.name!r}, not of {name!r}; search that model instead")

    def check(self, what: str, of: Descriptions | None = None) -> None:
        """Raise unless choices, parameters and tensors fit together and the components of a model, or of its own inventory.

        An allocation of choices alone has no parameters and tensors, which are not checked then.
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
            PmqError: the name does not end in ``.json``, or the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".json":
            raise PmqError(
                f"cannot write the allocation {quoted(path)}: its name must end in .json, as its tensors are written beside it"
            )
        write_text(
            path, self.model_dump_json(indent=1) + "\n"
        )  # first, because tensors alone cannot be assigned to an allocation
        if self._tensors is not None:
            write_bytes(path.with_suffix(".safetensors"), self._tensors.data)
        return path

    @classmethod
    def load(cls, path: Path | str, with_tensors: bool = True) -> Allocation:
        """Read and validate a JSON file, and the tensors beside it if they are there.

        Without ``with_tensors`` parameters and tensors are not checked, for an allocation that is quantized again from images.

        Raises:
            PmqError: the file is missing, no JSON, of another schema version, or has unknown fields or bit-widths; or the
                tensors beside it are of another allocation; or choices, parameters and tensors do not fit together.
        """
        path = Path(path)
        what = f"allocation {quoted(path)}"
        data = read_json(path, "allocation", "; `pmq search` writes one")
        if "components" not in data:
            raise PmqError(f"{what} has no 'components': it is no allocation of pmq")
        if data.get("schema_version") != SCHEMA_VERSION:
            raise PmqError(f"{what} has schema_version {shown(data.get('schema_version'))}; this pmq reads {SCHEMA_VERSION}")
        allocation = validated(cls, data, what)
        if not with_tensors:
            check_choices(allocation.components, allocation.inventory, what)
            return allocation
        beside = path.with_suffix(".safetensors")
        if allocation.tensors_sha256 is not None and is_there(beside, "tensors"):
            tensors = TensorFile.read(beside)
            if tensors.sha256 != allocation.tensors_sha256:
                raise PmqError(f"{quoted(beside)} does not hold the tensors of {what}; search or export it again")
            allocation = allocation.with_tensors(tensors)
        allocation.check(what)
        return allocation

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema of the file."""
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
