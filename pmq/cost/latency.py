"""Measured milliseconds: what each layer takes at each choice on one machine, in one runtime."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pmq.core.choice import FLOAT, Choice, WidthChoice
from pmq.core.errors import PmqError
from pmq.core.files import quoted, read_json, write_text
from pmq.core.patches import PatchMap
from pmq.core.pruning import PruningPlan
from pmq.core.validation import validated


def layer_key(weight: Choice, source: Choice) -> str:
    """Name what a layer does by the choices of its weight and its input.

    >>> layer_key(Choice(bits=4, granularity="group", group_size=32), Choice(bits=32, quantizer="none"))
    'w4-group32 x fp32'
    """
    return f"w{_label(weight)} x {_label(source)}"


def kernel_key(weight: Choice, source: Choice) -> str:
    """Name the kernel that computes a layer: 8-bit integers with one scale per output share that of int8.

    >>> kernel_key(Choice(bits=3, granularity="channel"), Choice(bits=5))
    'w8 x 8'
    """
    shared = all(
        c.quantizer in ("affine", "palette") and c.bits <= 8 and c.granularity in ("tensor", "channel") for c in (weight, source)
    )
    return INT8 if shared else layer_key(weight, source)


def _label(choice: Choice) -> str:
    group = f"-group{choice.group_size}" if choice.group_size else ""
    return choice.label + group


#: keys of a layer in FP32, and in 8-bit integers
PLAIN = layer_key(FLOAT, FLOAT)
INT8 = "w8 x 8"


class LatencyTable(BaseModel):
    """Measured latencies of a model's layers, in milliseconds for one batch.

    Attributes:
        target: the runtime.
        model: name of the model.
        batch_size, threads: batch size and threads of the measurement.
        fingerprint: machine, runtime and versions; the table is valid for these only.
        layers: layer -> key of its kernel (:func:`kernel_key`) -> milliseconds, including its share of data movement.
        rest_ms: milliseconds of everything else, in which components outside layers have the choice labelled ``elsewhere``.
        unit_layers: MLP or attention -> its layers; by default the layers whose names begin with its name.
        units: MLP or attention -> label of a width (:class:`pmq.core.choice.WidthChoice`) -> key of its layers' choices ->
            milliseconds saved.
        margin: share of the predicted latency that a budget in milliseconds keeps in reserve.
        spread: relative difference of repeated measurements of the FP32 model (a quarter of them lie outside).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    target: str
    model: str
    batch_size: int = Field(ge=1)
    threads: int = Field(ge=1)
    fingerprint: dict[str, str]
    layers: dict[str, dict[str, float]] = Field(min_length=1)
    rest_ms: float
    elsewhere: str = FLOAT.label
    units: dict[str, dict[str, dict[str, float]]] = Field(default_factory=dict)
    unit_layers: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    margin: float = Field(default=0.0, ge=0)
    spread: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> LatencyTable:
        empty = next((layer for layer, row in self.layers.items() if not row or (self.units and PLAIN not in row)), None)
        if empty is not None:
            raise ValueError(f"layer {empty!r} lacks {PLAIN!r}, which others are compared with")
        bare = next((unit for unit in self.units if not self.layers_of(unit)), None)
        if bare is not None:
            raise ValueError(f"unit {bare!r} has no layer")
        return self

    def layers_of(self, unit: str) -> dict[str, dict[str, float]]:
        """Return the rows of a unit's layers: those listed, or else those inside its module."""
        listed = self.unit_layers.get(unit)
        return {n: row for n, row in self.layers.items() if (n.startswith(f"{unit}.") if listed is None else n in listed)}

    def decision_ms(self, choices: Mapping[str, Choice], kept: Mapping[str, float] | None = None) -> float:
        """Return the milliseconds of components that are chosen together; components outside layers are part of the rest.

        ``kept`` are the shares of tokens that layers compute, where they skip some.

        Raises:
            PmqError: a layer was not measured at a choice.
        """
        total = 0.0
        for name, choice in choices.items():
            layer, _, slot = name.rpartition(".")
            if slot == "weight":
                if f"{layer}.input" not in choices:
                    raise PmqError(f"weight and input of {layer!r} must be chosen together to know their latency; tie them")
                key = kernel_key(choice, choices[f"{layer}.input"])
                if key not in self.layers.get(layer, {}):
                    known = ", ".join(self.layers.get(layer, {})) or "nothing"
                    raise PmqError(f"{layer!r} at {key!r} was not profiled on target {self.target!r}, but {known}; profile again")
                total += self.layers[layer][key] * (kept or {}).get(layer, 1.0)
            elif slot != "input" and choice.label != self.elsewhere:
                fault = f"{name!r} at {choice.label} bits was not profiled on target {self.target!r}"
                raise PmqError(f"{fault}; let it be {self.elsewhere}")
        return total

    def saved_ms(self, unit: str, label: str, choices: Mapping[str, Choice]) -> float:
        """Return the milliseconds saved by the width ``label`` of a unit whose components have ``choices``.

        Raises:
            PmqError: this width was not measured.
        """
        layers = [name.removesuffix(".weight") for name in choices if name.endswith(".weight")]
        keys = {layer: kernel_key(choices[f"{layer}.weight"], choices[f"{layer}.input"]) for layer in layers}
        return sum(self.layer_saved_ms(unit, label, layer, key) for layer, key in keys.items())

    def layer_saved_ms(self, unit: str, label: str, layer: str, key: str) -> float:
        """Return the milliseconds saved by one layer of a unit: its share of the unit's saving, in proportion to its latency.

        Raises:
            PmqError: this width was not measured.
        """
        row = self.units.get(unit, {}).get(label)
        if row is None or key not in row or layer not in self.layers:
            raise PmqError(f"{unit!r} at {label} and {key!r} was not profiled on target {self.target!r}; profile with `prune`")
        taken = {name: of.get(key, of[PLAIN]) for name, of in self.layers_of(unit).items()}
        return row[key] * max(taken[layer], 1e-9) / max(sum(taken.values()), 1e-9 * len(taken))

    def whole_ms(self, keys: Mapping[str, str]) -> float:
        """Return the milliseconds of a model, given the key of each layer; a layer not measured at its key counts in FP32."""
        return self.rest_ms + sum(row.get(keys[layer], row.get(PLAIN, 0.0)) for layer, row in self.layers.items())

    def pruned_ms(self, assignment: Mapping[str, Choice], plan: PruningPlan) -> float:
        """Return the milliseconds that a pruning plan saves; 0 if the table is of the pruned model."""
        total = 0.0
        for name, unit in plan.units.items() if self.units else ():
            if unit.share < 1:
                layers = unit.layers_at(name)
                choices = {f"{n}.{slot}": assignment[f"{n}.{slot}"] for n in layers for slot in ("weight", "input")}
                total += self.saved_ms(name, WidthChoice(unit=unit).label, choices)
        return total

    def latency_ms(self, assignment: Mapping[str, Choice], patches: PatchMap | None = None) -> float:
        """Return the milliseconds of a whole allocation; layers that skip tokens take proportionally less."""
        inputs = {} if patches is None else patches.components
        kept = {name.removesuffix(".input"): len(tokens.kept) / len(tokens.bits) for name, tokens in inputs.items()}
        return self.rest_ms + self.decision_ms(assignment, kept)

    @property
    def fastest_key(self) -> str:
        """Choice with which the model is fastest if all layers have it that can."""
        keys = {PLAIN, *(key for row in self.layers.values() for key in row)}
        return min(sorted(keys), key=lambda key: self.whole_ms({layer: key for layer in self.layers}))

    def with_fewer_tokens(self, shares: Mapping[str, float], key: str, whole_ms: float) -> LatencyTable:
        """Return the table of a model that merges tokens.

        Args:
            shares: share of its rows that each layer still computes; its milliseconds, and those that a width of its unit saves,
                shrink with it.
            key: choice of the layers with which the whole model was measured; the rest of the model takes what remains.
            whole_ms: milliseconds of the whole model.
        """
        layers = {name: {k: ms * shares[name] for k, ms in row.items()} for name, row in self.layers.items()}
        units = {
            name: {
                label: {k: ms * min(shares[layer] for layer in self.layers_of(name)) for k, ms in row.items()}
                for label, row in by_label.items()
            }
            for name, by_label in self.units.items()
        }
        rest = whole_ms - sum(row.get(key, row.get(PLAIN, 0.0)) for row in layers.values())
        return self.model_copy(update={"layers": layers, "units": units, "rest_ms": rest})

    def check(self, fingerprint: Mapping[str, str], force: bool = False, **facts: object) -> None:
        """Raise unless the table is of these ``facts`` (``threads=1``), and of this ``fingerprint`` or forced."""
        for name, expected in facts.items():
            if getattr(self, name) != expected:
                raise PmqError(f"the latency table is of {name} {getattr(self, name)!r}, not {expected!r}; profile that one")
        other = [k for k in fingerprint if self.fingerprint.get(k) != fingerprint[k]]
        if other and not force:
            differences = ", ".join(f"{k} {self.fingerprint.get(k)!r}, here {fingerprint[k]!r}" for k in other)
            raise PmqError(f"the latency table was measured elsewhere ({differences}); profile here, or `force` it")

    @property
    def sha256(self) -> str:
        """Hash of the whole table."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def save(self, path: Path) -> Path:
        """Write the table as JSON.

        Raises:
            PmqError: the name does not end in ``.json``, or the file cannot be written.
        """
        if path.suffix.lower() != ".json":
            raise PmqError(f"cannot write the latency table {quoted(path)}: its name must end in .json")
        return write_text(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read what :meth:`save` wrote.

        Raises:
            PmqError: there is no such file, or it holds no latency table.
        """
        return validated(cls, read_json(path, "latency table"), f"latency table {quoted(path)}")
