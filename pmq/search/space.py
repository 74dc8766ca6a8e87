"""The search space: which choices each component has, which components share one, which are pinned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Len
from pydantic import BaseModel, ConfigDict, Field

from pmq.core.allocation import validated
from pmq.core.bits import FP32
from pmq.core.choice import FLOAT, Assignment, Bits, Choice, Granularity
from pmq.core.component import Component, Inventory
from pmq.core.errors import PmqError

#: kinds a space may speak of even where the model at hand has none
KINDS = (
    *("patch_embed", "qkv", "proj", "fc1", "fc2", "reduction", "head", "linear"),
    *("image", "norm", "attention", "gelu", "hidden", "features", "q", "k", "softmax", "v"),
)


IMAGE_BITS = 8


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Options(_Strict):
    """What a component may choose from; what is left out comes from the more general entry.

    ``quantizer`` is one name; or several, each a choice at every bit-width; or a mapping such as ``{2: log2, 5: affine}``,
    from those bits upwards.
    """

    bits: list[Bits] | None = Field(default=None, min_length=1)
    quantizer: str | Annotated[list[str] | dict[int, str], Len(min_length=1)] | None = None
    granularity: Granularity | None = None
    group_size: int | None = Field(default=None, ge=1)
    symmetric: bool | None = None


class Tie(_Strict):
    """Components that must share their bits: those of one module, of one block, or of the whole model."""

    components: list[str] = Field(min_length=2)
    within: Literal["module", "block", "model"] = "block"


class SpaceFile(_Strict):
    """A ``search_spaces/*.yaml``.

    ``weight`` and ``activation`` hold for all; ``components`` refines them for a kind (``softmax``) or a name pattern
    (``blocks.0.*``), the later entry winning; ``pins`` fixes bits by kind or pattern.
    """

    name: str
    description: str = ""
    weight: Options
    activation: Options
    components: dict[str, Options] = Field(default_factory=dict)
    pins: dict[str, Bits] = Field(default_factory=dict)
    ties: list[Tie] = Field(default_factory=list)


@dataclass(frozen=True)
class Decision:
    """Components that take one choice together, and the choices of each, in order of rising bits."""

    components: tuple[str, ...]
    choices: tuple[tuple[Choice, ...], ...]

    def __len__(self) -> int:
        return len(self.choices[0])


class Space:
    """A search space laid over a model's components.

    Attributes:
        decisions: what the search decides, in model order.
    """

    def __init__(self, file: SpaceFile, inventory: Inventory, estimator: str = "mse") -> None:
        self.file, self.inventory, self.estimator = file, inventory, estimator
        self.name = file.name
        self._check_patterns()
        self.decisions = self._decide()

    @property
    def choices(self) -> dict[str, tuple[Choice, ...]]:
        """Component -> its choices."""
        found = {n: c for d in self.decisions for n, c in zip(d.components, d.choices, strict=True)}
        return {name: found[name] for name in self.inventory.names}

    def uniform(self, weight_bits: int, activation_bits: int) -> Assignment:
        """Give every component the same bits, with the quantizers of this space.

        Pins are excepted, and the image, which has 8 bits to begin with.
        """

        def bits(component: Component) -> int:
            if component.role == "weight":
                return weight_bits
            return max(IMAGE_BITS, activation_bits) if component.kind == "image" else activation_bits

        return {c.name: self._choice(c, self._pin(c) or bits(c)) for c in self.inventory}

    def assignment(self, genome: Any) -> Assignment:
        """Turn a choice index for each decision into a choice for each component."""
        picked = {
            name: options[int(index)]
            for decision, index in zip(self.decisions, genome, strict=True)
            for name, options in zip(decision.components, decision.choices, strict=True)
        }
        return {name: picked[name] for name in self.inventory.names}

    def genome(self, assignment: Mapping[str, Choice]) -> list[int] | None:
        """Undo :meth:`assignment`; nothing if the space does not hold the allocation."""
        genome = []
        for decision in self.decisions:
            wanted = tuple(assignment[name] for name in decision.components)
            columns = list(zip(*decision.choices, strict=True))
            if wanted not in columns:
                return None
            genome.append(columns.index(wanted))
        return genome

    def _options(self, component: Component) -> Options:
        general = self.file.weight if component.role == "weight" else self.file.activation
        merged = general.model_dump(exclude_none=True)
        for pattern, options in self.file.components.items():
            if _matches(pattern, component):
                refined = options.model_dump(exclude_none=True)
                if "granularity" in refined:
                    merged.pop("group_size", None)  # groups have a size, nothing else has
                merged |= refined
        return Options(**merged)

    def _pin(self, component: Component) -> int | None:
        pins = [bits for pattern, bits in self.file.pins.items() if _matches(pattern, component)]
        return pins[-1] if pins else None

    def _choice(self, component: Component, bits: int, quantizer: str | None = None) -> Choice:
        options = self._options(component)
        quantizer = quantizer or _quantizers(options, bits)[0]
        granularity = options.granularity or "tensor"
        what = f"search space {self.name!r}, {component.name!r}"
        if component.role == "activation" and granularity != "tensor":
            raise PmqError(f"{what}: granularity {granularity!r}; activations have one scale a tensor")
        if quantizer == "log2" and component.kind != "softmax":
            raise PmqError(f"{what}: quantizer 'log2' is for softmax outputs, which are not negative; use affine")
        if bits == FP32:
            return FLOAT
        fields = {"bits": bits, "quantizer": quantizer, "granularity": granularity, "group_size": options.group_size}
        fields |= {"symmetric": bool(options.symmetric), "estimator": self.estimator}
        return validated(Choice, fields, what)

    def _own_choices(self, component: Component) -> tuple[Choice, ...]:
        pin = self._pin(component)
        options = self._options(component)
        if pin is not None:
            return (self._choice(component, pin),)
        if not options.bits:
            raise PmqError(f"search space {self.name!r} gives {component.name!r} no bits; set them under {component.role}")
        choices = [self._choice(component, b, q) for b in sorted(set(options.bits)) for q in _quantizers(options, b)]
        return tuple(dict.fromkeys(choices))

    def _decide(self) -> list[Decision]:
        own = {c.name: self._own_choices(c) for c in self.inventory}
        groups: dict[str, list[str]] = {name: [name] for name in own}
        for tie in self.file.ties:
            tied: dict[str, list[str]] = {}
            for component in self.inventory:
                if any(_matches(pattern, component) for pattern in tie.components):
                    place = {"module": component.module, "block": str(component.stage), "model": ""}[tie.within]
                    tied.setdefault(place, []).append(component.name)
            for names in tied.values():
                merged = list(dict.fromkeys(n for name in names for n in groups[name]))
                for name in merged:
                    groups[name] = merged
        decisions = []
        for name, group in groups.items():
            if name != group[0]:
                continue
            bits = [[c.bits for c in own[member]] for member in group]
            if any(b != bits[0] for b in bits):
                other = group[next(i for i, b in enumerate(bits) if b != bits[0])]
                raise PmqError(f"search space {self.name!r} ties {name!r} to {other!r}, but their bits differ")
            decisions.append(Decision(tuple(group), tuple(own[member] for member in group)))
        return decisions

    def _check_patterns(self) -> None:
        file = self.file
        for pattern in (*file.components, *file.pins, *(p for tie in file.ties for p in tie.components)):
            if pattern not in KINDS and not any(_matches(pattern, c) for c in self.inventory):
                raise PmqError(
                    f"search space {self.name!r}: {pattern!r} is no kind of component ({', '.join(KINDS)}) and no pattern "
                    f"that matches a component's name, such as {self.inventory.names[0]!r}"
                )


def _matches(pattern: str, component: Component) -> bool:
    return pattern == component.kind or fnmatchcase(component.name, pattern)


def _quantizers(options: Options, bits: int) -> list[str]:
    """Quantizers at a bit-width, the one of uniform allocations first."""
    given = options.quantizer or "affine"
    if isinstance(given, dict):
        given = given[max((b for b in given if b <= bits), default=min(given))]
    return [given] if isinstance(given, str) else given


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
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in spaces_folder().glob("*.yaml")))
        raise PmqError(f"search space {name!r} is no file and not one of those that ship: {shipped}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PmqError(f"search space {str(path)!r} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise PmqError(f"search space {str(path)!r} is no mapping of keys; see search_spaces/default.yaml")
    return validated(SpaceFile, data, f"search space {str(path)!r}")
