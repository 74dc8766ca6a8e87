"""Search spaces as YAML files: their keys, where they are stored, and how they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Len
from pydantic import BaseModel, ConfigDict, Field

from pmq.core.choice import Bits, Granularity, GroupSize
from pmq.core.errors import PmqError
from pmq.core.files import is_file, quoted, read_yaml
from pmq.core.operator_widths import OperatorWidths
from pmq.core.paths import spaces_folder
from pmq.core.validation import shown, validated

#: kinds of components that a space may name even if the model has none of them
KINDS = (
    *("patch_embed", "qkv", "proj", "fc1", "fc2", "reduction", "head", "linear", "conv", "depthwise", "conv_transpose"),
    *("image", "norm", "attention", "gelu", "hidden", "features", "q", "k", "softmax", "v", "product"),
    *("sum", "logits", "constant", "scale", "moment"),
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Options(_Strict):
    """Choices that a component has; unset fields come from the more general entry.

    ``quantizer`` is one name, several names (each a choice at every bit-width), or a mapping such as ``{2: log, 5: power}``
    of the lowest bit-width to the quantizer from there upwards. ``uniform`` is the quantizer of uniform allocations, and of
    inputs without tokens, where it is not the first one. ``symmetric`` may list the bit-widths of symmetric grids.
    """

    bits: list[Bits] | None = Field(default=None, min_length=1)
    quantizer: str | Annotated[list[str] | dict[int, str], Len(min_length=1)] | None = None
    uniform: str | Annotated[dict[int, str], Len(min_length=1)] | None = None
    granularity: Granularity | None = None
    group_size: GroupSize | None = None
    symmetric: bool | list[Bits] | None = None

    def is_symmetric(self, bits: int) -> bool:
        """Return whether grids of a bit-width are symmetric."""
        return bits in self.symmetric if isinstance(self.symmetric, list) else bool(self.symmetric)

    def quantizers(self, bits: int) -> list[str]:
        """Return the quantizers at a bit-width."""
        names = self.quantizer or "affine"
        names = _at(bits, names) if isinstance(names, dict) else names
        return [names] if isinstance(names, str) else names

    def uniform_quantizer(self, bits: int) -> str:
        """Return the quantizer of uniform allocations at a bit-width."""
        if self.uniform is None:
            return self.quantizers(bits)[0]
        return _at(bits, self.uniform) if isinstance(self.uniform, dict) else self.uniform


def _at(bits: int, names: dict[int, str]) -> str:
    """Return what a mapping of lowest bit-widths has for ``bits``."""
    return names[max((b for b in names if b <= bits), default=min(names))]


class Tie(_Strict):
    """Components that must share their bits: those of one module, of one block, or of the whole model."""

    components: list[str] = Field(min_length=2)
    within: Literal["module", "block", "model"] = "block"


class OneChoice(_Strict):
    """Choice of a weight or of a layer's input in a mode."""

    bits: Bits = 32
    quantizer: str | None = None
    granularity: Granularity | None = None
    group_size: GroupSize | None = None
    symmetric: bool = False


class Mode(_Strict):
    """Joint choice of a layer's weight and input, for which a kernel exists.

    ``layers`` lists the kinds of weights or the patterns that have this mode, ``excepted`` those that do not.
    """

    weight: OneChoice = OneChoice()
    input: OneChoice = OneChoice()
    layers: list[str] | None = None
    excepted: list[str] = Field(default_factory=list)


class SpaceFile(_Strict):
    """Contents of a ``search_spaces/*.yaml`` file.

    ``weight`` and ``activation`` hold for all components; ``components`` refines them for a kind (``softmax``) or a name pattern
    (``blocks.0.*``), where the later entry wins; ``pins`` fixes bits by kind or pattern. With ``modes`` a layer's weight and
    input choose one of the modes together, regardless of the other entries. Activations that are the same tensor, read by
    several operators, have the same bits unless ``shared`` is false. With ``operators`` every tensor between operators is a
    component, as targets need that compute with integers alone.
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
    operators: OperatorWidths | None = None

    @property
    def norms_written_out(self) -> bool:
        """Whether norms are written out, as the target has no operator for them in integers."""
        return self.operators is not None and not self.operators.norm


def read_space(space: str | SpaceFile) -> SpaceFile:
    """Read a search space by file name, or a built-in one by name; a space already read is returned as it is.

    Raises:
        PmqError: there is no such file or name, it is not YAML, or it has unknown keys or values.
    """
    if isinstance(space, SpaceFile):
        return space
    path = Path(space)
    if not path.suffix:
        path = spaces_folder() / f"{space}.yaml"
    if not is_file(path):
        shipped = ", ".join(sorted(p.stem for p in spaces_folder().glob("*.yaml")))
        raise PmqError(f"search space {shown(space)} is neither a file nor one of the built-in spaces: {shipped}")
    return validated(SpaceFile, read_yaml(path, "search space"), f"search space {quoted(path)}")
