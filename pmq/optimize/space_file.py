"""Search spaces as YAML files: their keys, where they are, and how they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Len
from pydantic import BaseModel, ConfigDict, Field

from pmq.core.choice import Bits, Granularity, GroupSize
from pmq.core.errors import PmqError
from pmq.core.files import is_file, quoted, read_yaml
from pmq.core.validation import shown, validated

#: kinds a space may speak of even where the model at hand has none
KINDS = (
    *("patch_embed", "qkv", "proj", "fc1", "fc2", "reduction", "head", "linear", "conv", "depthwise", "conv_transpose"),
    *("image", "norm", "attention", "gelu", "hidden", "features", "q", "k", "softmax", "v", "product"),
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Options(_Strict):
    """What a component may choose from; what is left out comes from the more general entry.

    ``quantizer`` is one name; or several, each a choice at every bit-width; or a mapping such as ``{2: log, 5: power}``,
    from those bits upwards.
    """

    bits: list[Bits] | None = Field(default=None, min_length=1)
    quantizer: str | Annotated[list[str] | dict[int, str], Len(min_length=1)] | None = None
    granularity: Granularity | None = None
    group_size: GroupSize | None = None
    symmetric: bool | None = None

    def quantizers(self, bits: int) -> list[str]:
        """Name the quantizers at a bit-width, the one of uniform allocations first."""
        given = self.quantizer or "affine"
        if isinstance(given, dict):
            given = given[max((b for b in given if b <= bits), default=min(given))]
        return [given] if isinstance(given, str) else given


class Tie(_Strict):
    """Components that must share their bits: those of one module, of one block, or of the whole model."""

    components: list[str] = Field(min_length=2)
    within: Literal["module", "block", "model"] = "block"


class OneChoice(_Strict):
    """What a weight or a layer's input is in a mode."""

    bits: Bits = 32
    quantizer: str | None = None
    granularity: Granularity | None = None
    group_size: GroupSize | None = None
    symmetric: bool = False


class Mode(_Strict):
    """What a layer's weight and input are together: a kernel that exists.

    ``layers`` names kinds of weights or patterns that have this mode, ``excepted`` those that have not.
    """

    weight: OneChoice = OneChoice()
    input: OneChoice = OneChoice()
    layers: list[str] | None = None
    excepted: list[str] = Field(default_factory=list)


class SpaceFile(_Strict):
    """A ``search_spaces/*.yaml``.

    ``weight`` and ``activation`` hold for all; ``components`` refines them for a kind (``softmax``) or a name pattern
    (``blocks.0.*``), the later entry winning; ``pins`` fixes bits by kind or pattern. With ``modes`` a layer's weight and
    input choose one of those together, whatever else is said of them. Activations that are one tensor, which several operators
    read, have the same bits unless ``shared`` is off.
    """

    name: str
    description: str = ""
    weight: Options
    activation: Options
    components: dict[str, Options] = Field(default_factory=dict)
    pins: dict[str, Bits] = Field(default_factory=dict)
    ties: list[Tie] = Field(default_factory=list)
    shared: bool = True
    modes: dict[str, Mode] = Field(default_factory=dict)


def spaces_folder() -> Path:
    """Where the search spaces that ship are: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"


def read_space(name: str) -> SpaceFile:
    """Read a search space by file name, or by the name of one that ships.

    Raises:
        PmqError: no such file or name, no YAML, or unknown keys or values in it.
    """
    path = Path(name)
    if not path.suffix:
        path = spaces_folder() / f"{name}.yaml"
    if not is_file(path):
        shipped = ", ".join(sorted(p.stem for p in spaces_folder().glob("*.yaml")))
        raise PmqError(f"search space {shown(name)} is no file and not one of those that ship: {shipped}")
    return validated(SpaceFile, read_yaml(path, "search space"), f"search space {quoted(path)}")
