"""The simulator: a model that computes with the bits of an allocation, in floating point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pmq.core.choice import FLOAT, Choice, Decisions, WidthChoice, bits_of, widths_of
from pmq.core.component import Component, Inventory
from pmq.core.progress import track
from pmq.graph import CapturedModel
from pmq.graph.taps import Layer, TapFunction
from pmq.quant.calibration import Calibration
from pmq.quant.instrument import Instrument
from pmq.quant.integer import IntegerLinear, IntegerWeight
from pmq.quant.quantizers import Quantizer
from pmq.quant.weights import QuantizedWeight, quantize_weight

#: quantizes the weight of a component, of whose inputs there may be some columns only
Rounding = Callable[[Component, Tensor, Choice, Tensor | None], QuantizedWeight]


def nearest(component: Component, weight: Tensor, choice: Choice, columns: Tensor | None = None) -> QuantizedWeight:
    """Round to the nearest level."""
    return quantize_weight(weight, choice)


@dataclass(frozen=True)
class MaskedWeight:
    """A weight ``(O, I)`` with removed channels: the remaining rows or columns, all others being zero.

    Attributes:
        label: label that distinguishes the masks of one weight.
        values: values of the remaining rows or columns.
        rows, columns: indices of the remaining rows, or of the remaining columns; ``None`` for all.
    """

    label: str
    values: Tensor
    rows: Tensor | None = None
    columns: Tensor | None = None

    def embedded(self, values: Tensor, shape: torch.Size) -> Tensor:
        """Return the full weight with ``values`` in the remaining rows or columns."""
        whole = values.new_zeros(shape)
        if self.columns is not None:
            whole[:, self.columns] = values
        elif self.rows is not None:
            whole[self.rows] = values
        return whole


#: computes the masked weights of a unit's width, by component
WeightMasker = Callable[[str, WidthChoice], Mapping[str, MaskedWeight]]


class Simulator:
    """Applies choices to a model and undoes them. A context manager: leaving it restores the model.

    A weight is quantized once for each choice and cached, so that another allocation only exchanges pointers.

    Args:
        model: captured model in evaluation mode; changed in place until :meth:`close`.
        inventory: its components.
        calibration: source of the activation quantizers.
        rounding: rounding of weights.
        integers: multiply as int8 where both operands are int8; equal except for the rounding of floats, and faster.
        masker: computes the masked weights of narrower units; needed where an allocation has widths.
    """

    def __init__(
        self,
        model: CapturedModel,
        inventory: Inventory,
        calibration: Calibration,
        rounding: Rounding = nearest,
        integers: bool = True,
        masker: WeightMasker | None = None,
    ) -> None:
        self.integers, self.masker = integers, masker
        self._kept: dict[str, tuple[WidthChoice, tuple[str, ...]]] = {}
        self._masked: dict[str, MaskedWeight] = {}
        self.model, self.inventory, self.calibration, self.rounding = model, inventory, calibration, rounding
        self._instrument = Instrument(model, inventory)
        self._components = {c.name: c for c in inventory}
        self._current: dict[str, Choice] = dict.fromkeys(inventory.names, FLOAT)
        self._weights: dict[tuple[str, Choice, str], Tensor] = {}
        self._integers: dict[tuple[str, Choice], IntegerWeight | None] = {}
        self._quantizers: dict[tuple[str, Choice], Quantizer] = {}

    def apply(self, assignment: Decisions) -> None:
        """Quantize by ``assignment``; components it does not name are FP32."""
        widths, choices = widths_of(assignment), bits_of(assignment)
        for unit in (*(name for name in list(self._kept) if name not in widths), *widths):
            self._keep(unit, widths.get(unit))
        for name in self.inventory.names:
            self.set(name, choices.get(name, FLOAT))

    def set(self, name: str, choice: Choice | WidthChoice) -> None:
        """Quantize one component, or keep part of a unit, leaving the others as they are."""
        if isinstance(choice, WidthChoice):
            self._keep(name, choice)
        elif self._current[name] != choice:
            self._install(name, choice)

    def _keep(self, unit: str, choice: WidthChoice | None) -> None:
        before, names = self._kept.pop(unit, (None, ()))
        if before == choice:
            if before is not None:
                self._kept[unit] = (before, names)
            return
        cuts: Mapping[str, MaskedWeight] = {}
        if choice is not None and not choice.is_fp32:
            assert self.masker is not None, "widths need a masker"
            cuts = self.masker(unit, choice)
            self._kept[unit] = (choice, tuple(cuts))
        for name in {*names, *cuts}:
            self._masked.pop(name, None)
            if name in cuts:
                self._masked[name] = cuts[name]
            self._install(name, self._current[name])

    def current(self, name: str) -> Choice:
        """How a component is quantized now."""
        return self._current[name]

    def reset(self, name: str) -> None:
        """Quantize one component again as it is quantized now, after its tap was used for something else."""
        self._install(name, self._current[name])

    def _install(self, name: str, choice: Choice) -> None:
        component = self._components[name]
        if component.role == "weight":
            whole = choice.is_fp32 and name not in self._masked
            self._instrument.set_weight(name, None if whole else self.weight(component, choice))
        else:
            self._instrument.set_activation(name, None if choice.is_fp32 else self.quantizer(component, choice))
        self._current[name] = choice
        if component.slot in ("weight", "input"):
            self._instrument.layer(name).product = self._product(component.module)

    def _product(self, module: str) -> IntegerLinear | None:
        """The integer product of a layer whose weight and input are both quantized so that there is one."""
        weight, source = f"{module}.weight", f"{module}.input"
        if not self.integers or weight not in self._current or source not in self._current:
            return None
        choice, input_choice = self._current[weight], self._current[source]
        if choice.is_fp32 or input_choice.is_fp32 or weight in self._masked:
            return None
        integers, quantizer = self._integers[weight, choice], self._quantizers[source, input_choice]
        return None if integers is None or quantizer.int8_grid is None else IntegerLinear(integers, quantizer)

    def run(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run stages ``start`` to ``stop`` (exclusive) of the model as it is quantized now; a component names its stage."""
        return self.model.run(x, start, stop)

    @property
    def n_stages(self) -> int:
        """How many stages :meth:`run` knows."""
        return len(self.model.program.stages)

    def block_parameters(self, stage: int) -> list[nn.Parameter]:
        """Parameters of the block that a stage is; none of what comes before and after the blocks."""
        return self.model.parameters_of(stage) if 0 < stage < self.n_stages - 1 else []

    def prepare(self, choices: Mapping[str, Sequence[Choice]]) -> None:
        """Quantize weights and fit quantizers for all ``choices`` now rather than when they are first used."""
        pairs = [(self._components[name], choice) for name, row in choices.items() for choice in row]
        for component, choice in track(pairs, "fitting quantizers"):
            if not choice.is_fp32:
                (self.weight if component.role == "weight" else self.quantizer)(component, choice)

    def weight(self, component: Component, choice: Choice) -> Tensor:
        """Values of a weight, quantized and cut, computed once."""
        cut = self._masked.get(component.name)
        key = (component.name, choice, "" if cut is None else cut.label)
        if key in self._weights:
            return self._weights[key]
        if cut is not None:
            values = cut.values
            if not choice.is_fp32:
                values = self.rounding(component, values, choice, cut.columns).dequantize()
            self._weights[key] = cut.embedded(values, self._instrument.weights[component.name].shape)
        else:
            quantized = self.quantized_weight(component, choice)
            self._weights[key] = quantized.dequantize()
            self._integers[component.name, choice] = IntegerWeight.of(quantized) if self.integers else None
        return self._weights[key]

    def exact(self, component: Component) -> Tensor:
        """Values of a weight in FP32, cut."""
        if component.name in self._masked:
            return self.weight(component, FLOAT)
        return self._instrument.weights[component.name].detach()

    def quantized_weight(self, component: Component, choice: Choice) -> QuantizedWeight:
        """Codes and grid of a weight."""
        return self.rounding(component, self._instrument.weights[component.name].detach(), choice, None)

    def quantizer(self, component: Component, choice: Choice) -> Quantizer:
        """Quantizer of an activation, fitted once."""
        key = (component.name, choice)
        if key not in self._quantizers:
            self._quantizers[key] = self.spread(component.name, self.calibration.quantizer(component.name, choice))
        return self._quantizers[key]

    def spread(self, name: str, quantizer: Quantizer) -> Quantizer:
        """Lay the parameters of a quantizer out for the shape that its activation has."""
        instrument, bits = self._instrument, quantizer.bits
        device = next(self.model.parameters()).device
        parameters = {
            k: (v if k in quantizer.shared else instrument.spread(name, v)).to(device) for k, v in quantizer.parameters.items()
        }
        return type(quantizer)(parameters, bits)

    def layer(self, name: str) -> Layer:
        """Return the layer of a weight component."""
        return self._instrument.layer(name)

    def original_weight(self, name: str) -> Tensor:
        """Return a weight in FP32, as it was before any choice was applied."""
        return self._instrument.weights[name].detach()

    def set_weight(self, name: str, weight: Tensor | None) -> None:
        """Replace a weight by values outside the choices, or restore it with ``None``."""
        self._instrument.set_weight(name, weight)

    def set_activation(self, name: str, function: TapFunction | None) -> None:
        """Pass an activation through a function, or leave it alone with ``None``; :meth:`reset` restores its choice."""
        self._instrument.set_activation(name, function)

    def by_head(self, name: str, x: Tensor) -> Tensor:
        """Arrange an activation's values by attention head."""
        return self._instrument.by_head(name, x)

    def by_scale(self, name: str, parameter: Tensor) -> Tensor:
        """Arrange a parameter with a value per scale so that it broadcasts against the activation."""
        return self._instrument.spread(name, parameter)

    def images_first(self, name: str, x: Tensor) -> Tensor:
        """Arrange an activation's values with the images as the first axis."""
        return self._instrument.images_first(name, x)

    def use_calibration(self, calibration: Calibration) -> None:
        """Take the quantizers of activations from another calibration, from their next use on."""
        self.calibration = calibration

    def close(self) -> None:
        """Restore the model."""
        self._instrument.remove()

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
