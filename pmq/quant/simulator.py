"""Simulator that makes a model compute with the bit-widths of an allocation, in floating point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pmq.core.choice import FLOAT, Choice, Decisions, WidthChoice, bits_of, widths_of
from pmq.core.component import Component, Inventory
from pmq.core.progress import track
from pmq.core.shelf import Shelf
from pmq.graph import CapturedModel
from pmq.graph.taps import Layer, TapFunction
from pmq.quant.calibration import Calibration
from pmq.quant.instrument import Instrument
from pmq.quant.integer import IntegerLinear, IntegerLinearByToken, IntegerWeight, has_integers, integer_product
from pmq.quant.quantizers import Quantizer
from pmq.quant.threads import in_threads
from pmq.quant.weights import QuantizedWeight, quantize_weight

#: function ``(component, weight, choice, columns)`` that quantizes a weight; ``columns`` are the remaining inputs, None for all
Rounding = Callable[[Component, Tensor, Choice, Tensor | None], QuantizedWeight]


def nearest(component: Component, weight: Tensor, choice: Choice, columns: Tensor | None = None) -> QuantizedWeight:
    """Round a weight to the nearest level, whatever its component and columns are."""
    return quantize_weight(weight, choice)


@dataclass(frozen=True)
class MaskedWeight:
    """Weight ``(O, I)`` with removed channels: the remaining rows or columns; all others are zero.

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
        """Return the full weight of ``shape``, with ``values`` in the remaining rows or columns and zeros elsewhere."""
        full = values.new_zeros(shape)
        if self.columns is not None:
            full[:, self.columns] = values
        elif self.rows is not None:
            full[self.rows] = values
        return full


#: function ``(unit, width choice)`` that returns the masked weights of a unit at a width, by component
WeightMasker = Callable[[str, WidthChoice], Mapping[str, MaskedWeight]]


class Simulator:
    """Context manager that applies choices to a model; leaving it restores the model.

    Each weight is quantized once for each choice, and its codes are kept: a byte for each value, from which the values are
    computed again whenever the choice is applied. They are on disk where memory is limited.

    Args:
        model: captured model in evaluation mode; changed in place until :meth:`close`.
        inventory: its components.
        calibration: source of the activation quantizers.
        rounding: rounding of weights.
        integers: multiply as int8 where both operands are int8, which is faster and differs only by floating-point rounding.
        masker: function that computes the masked weights of narrower units; required by allocations with width choices.
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
        self._width_choices: dict[str, tuple[WidthChoice, tuple[str, ...]]] = {}
        self._masked: dict[str, MaskedWeight] = {}
        self.model, self.inventory, self.calibration, self.rounding = model, inventory, calibration, rounding
        self._instrument = Instrument(model, inventory)
        self._components = {c.name: c for c in inventory}
        self._current: dict[str, Choice] = dict.fromkeys(inventory.names, FLOAT)
        self._embedded: Shelf[tuple[str, Choice, str], Tensor] = Shelf()
        self._quantized: Shelf[tuple[str, Choice], QuantizedWeight] = Shelf()
        self._integers: dict[str, tuple[Choice, IntegerWeight | None]] = {}
        self._quantizers: dict[tuple[str, Choice], Quantizer] = {}

    def apply(self, assignment: Decisions) -> None:
        """Quantize the model with ``assignment``; components that it does not name are computed in FP32."""
        widths, choices = widths_of(assignment), bits_of(assignment)
        for unit in (*(name for name in list(self._width_choices) if name not in widths), *widths):
            self._set_width(unit, widths.get(unit))
        self._quantize_missing(choices.items())
        for name in self.inventory.names:
            self.set(name, choices.get(name, FLOAT))

    def set(self, name: str, choice: Choice | WidthChoice) -> None:
        """Apply the choice of one component, or the width choice of one unit; all others are unchanged."""
        if isinstance(choice, WidthChoice):
            self._set_width(name, choice)
        elif self._current[name] != choice:
            self._install(name, choice)

    def _set_width(self, unit: str, choice: WidthChoice | None) -> None:
        """Apply the width choice of a unit, or restore its full width with ``None``."""
        before, names = self._width_choices.pop(unit, (None, ()))
        if before == choice:
            if before is not None:
                self._width_choices[unit] = (before, names)
            return
        masks: Mapping[str, MaskedWeight] = {}
        if choice is not None and not choice.is_fp32:
            assert self.masker is not None, "width choices need a masker"
            masks = self.masker(unit, choice)
            self._width_choices[unit] = (choice, tuple(masks))
        for name in {*names, *masks}:
            self._masked.pop(name, None)
            if name in masks:
                self._masked[name] = masks[name]
            self._install(name, self._current[name])

    def current(self, name: str) -> Choice:
        """Return the choice that is applied to a component."""
        return self._current[name]

    def reset(self, name: str) -> None:
        """Apply the current choice of a component again, after its tap was used for something else."""
        self._install(name, self._current[name])

    def _install(self, name: str, choice: Choice) -> None:
        component = self._components[name]
        if component.role == "weight":
            unchanged = choice.is_fp32 and name not in self._masked
            self._instrument.set_weight(name, None if unchanged else self.weight(component, choice))
        else:
            self._instrument.set_activation(name, None if choice.is_fp32 else self.quantizer(component, choice))
        self._current[name] = choice
        if component.slot in ("weight", "input"):
            self._instrument.layer(name).product = self._product(component.module)

    def _product(self, module: str) -> IntegerLinear | IntegerLinearByToken | None:
        """Return the integer product of a layer, or None unless the choices of its weight and its input allow one."""
        weight, source = f"{module}.weight", f"{module}.input"
        if not self.integers or weight not in self._current or source not in self._current:
            return None
        choice, input_choice = self._current[weight], self._current[source]
        if choice.is_fp32 or input_choice.is_fp32 or weight in self._masked:
            return None
        quantizer = self._quantizers[source, input_choice]
        if not has_integers(quantizer):
            return None
        if weight not in self._integers or self._integers[weight][0] != choice:
            quantized = self.quantized_weight(self._components[weight], choice)
            self._integers[weight] = choice, IntegerWeight.of(quantized)
        integers = self._integers[weight][1]
        return None if integers is None else integer_product(integers, quantizer)

    def run(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run stages ``start`` to ``stop`` (exclusive) of the model with the current choices.

        Stages are numbered as in :attr:`pmq.core.component.Component.stage`.
        """
        return self.model.run(x, start, stop)

    @property
    def n_stages(self) -> int:
        """Return the number of stages of the model."""
        return len(self.model.program.stages)

    def block_parameters(self, stage: int) -> list[nn.Parameter]:
        """Return the parameters of a stage that is a block; the first and the last stage are not blocks and have none."""
        return self.model.parameters_of(stage) if 0 < stage < self.n_stages - 1 else []

    def prepare(self, choices: Mapping[str, Sequence[Choice]]) -> None:
        """Quantize weights and fit activation quantizers for all ``choices`` in advance, instead of at their first use."""
        for name, row in track(choices.items(), "fitting quantizers"):
            self._quantize_missing((name, choice) for choice in row)

    def _quantize_missing(self, pairs: Iterable[tuple[str, Choice]]) -> None:
        """Quantize the weights and fit the quantizers that are not cached, several at a time; masked weights are left out."""
        quantized = [(name, choice) for name, choice in pairs if not (choice.is_fp32 or name in self._masked)]
        missing = [pair for pair in quantized if pair not in self._quantized and pair not in self._quantizers]

        @torch.no_grad()
        def quantize(each: tuple[str, Choice]) -> None:
            component = self._components[each[0]]
            (self.quantized_weight if component.role == "weight" else self.quantizer)(component, each[1])

        in_threads(quantize, missing, next(self.model.parameters()).device)

    def fit(self, name: str, choices: Sequence[Choice]) -> dict[Choice, QuantizedWeight | Quantizer]:
        """Return the quantized weights, or the quantizers, of a component at some choices, for :meth:`use` elsewhere."""
        component, choices = self._components[name], [choice for choice in choices if not choice.is_fp32]
        if component.role == "weight":
            return {choice: self.quantized_weight(component, choice) for choice in choices}
        return {choice: self.calibration.quantizer(name, choice) for choice in choices}

    def use(self, fits: Mapping[str, Mapping[Choice, QuantizedWeight | Quantizer]]) -> None:
        """Use what :meth:`fit` returned in a copy of this simulator, by component, in place of quantizing again."""
        for name, fitted in fits.items():
            for choice, value in fitted.items():
                if isinstance(value, QuantizedWeight):
                    self._quantized[name, choice] = value
                else:
                    self.calibration.use(name, choice, value)

    def weight(self, component: Component, choice: Choice) -> Tensor:
        """Return the quantized and masked values of a weight; masked ones are cached."""
        if component.name not in self._masked:
            return self.quantized_weight(component, choice).dequantize()
        mask = self._masked[component.name]
        key = (component.name, choice, mask.label)
        if key not in self._embedded:
            values = mask.values
            if not choice.is_fp32:
                values = self.rounding(component, values, choice, mask.columns).dequantize()
            self._embedded[key] = mask.embedded(values, self._instrument.weights[component.name].shape)
        return self._embedded[key]

    def exact(self, component: Component) -> Tensor:
        """Return the FP32 values of a weight, masked where its unit has a width choice."""
        if component.name in self._masked:
            return self.weight(component, FLOAT)
        return self._instrument.weights[component.name].detach()

    def quantized_weight(self, component: Component, choice: Choice) -> QuantizedWeight:
        """Return the codes and the quantizer of a weight, without its mask, which are computed once and cached."""
        key = (component.name, choice)
        if key not in self._quantized:
            self._quantized[key] = self.rounding(component, self._instrument.weights[component.name].detach(), choice, None)
        return self._quantized[key]

    def quantizer(self, component: Component, choice: Choice) -> Quantizer:
        """Return the quantizer of an activation, which is fitted once and cached."""
        key = (component.name, choice)
        if key not in self._quantizers:
            self._quantizers[key] = self.spread(component.name, self.calibration.quantizer(component.name, choice))
        return self._quantizers[key]

    def spread(self, name: str, quantizer: Quantizer) -> Quantizer:
        """Return a quantizer whose parameters are on the model's device and broadcast against activation ``name``."""
        instrument, bits = self._instrument, quantizer.bits
        device = next(self.model.parameters()).device
        parameters = {
            k: (v if k in quantizer.shared else instrument.spread(name, v)).to(device) for k, v in quantizer.parameters.items()
        }
        return type(quantizer)(parameters, bits)

    def layer(self, name: str) -> Layer:
        """Return the layer of a component, which is a weight or the input of a layer."""
        return self._instrument.layer(name)

    def original_weight(self, name: str) -> Tensor:
        """Return the FP32 values that a weight had before any choice was applied."""
        return self._instrument.weights[name].detach()

    def set_weight(self, name: str, weight: Tensor | None) -> None:
        """Replace a weight by other values, or restore its FP32 values with ``None``; the current choice is not updated."""
        self._instrument.set_weight(name, weight)

    def set_activation(self, name: str, function: TapFunction | None) -> None:
        """Pass an activation through a function, or leave it unchanged with ``None``; :meth:`reset` restores its choice."""
        self._instrument.set_activation(name, function)

    def by_head(self, name: str, x: Tensor) -> Tensor:
        """Return an activation's values as ``(heads, K)``, a row for each attention head."""
        return self._instrument.by_head(name, x)

    def by_scale(self, name: str, parameter: Tensor) -> Tensor:
        """Return a parameter ``(R, 1)``, a value for each scale, in a shape that broadcasts against activation ``name``."""
        return self._instrument.spread(name, parameter)

    def images_first(self, name: str, x: Tensor) -> Tensor:
        """Return an activation's values with its batch axis first."""
        return self._instrument.images_first(name, x)

    def use_calibration(self, calibration: Calibration) -> None:
        """Use another calibration for the activation quantizers that are fitted from now on; cached ones are unchanged."""
        self.calibration = calibration

    def close(self) -> None:
        """Restore the model."""
        self._instrument.remove()

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
