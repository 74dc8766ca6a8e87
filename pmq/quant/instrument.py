"""Access to every component of a captured model by name, to replace weights and to observe or change activations."""

from __future__ import annotations

from torch import Tensor, nn

from pmq.core.component import Inventory
from pmq.graph import Attention, CapturedModel, Layer, TapFunction, Tapped, component_of


class Instrument:
    """Context manager that gives access to all components of a model; leaving it restores the model.

    Args:
        model: captured model, which is changed in place.
        inventory: its components.
    """

    def __init__(self, model: CapturedModel, inventory: Inventory) -> None:
        self.model, self.inventory = model, inventory
        self._slots: dict[str, tuple[Tapped, str]] = {}
        self._heads = {component.name: component.heads for component in inventory}
        tapped = model.tapped
        self._attentions = [module for module in tapped.values() if isinstance(module, Attention)]
        for attention in self._attentions:
            attention.written_out = True
        for path, module in tapped.items():
            for slot in (*(["weight"] if isinstance(module, Layer) else []), *module.slots):
                self._slots[f"{component_of(path, slot)}.{slot}"] = (module, slot)
        #: original weights, by component
        self.weights = {c.name: self.layer(c.name).weight for c in inventory if c.slot == "weight"}

    def set_weight(self, name: str, weight: Tensor | None) -> None:
        """Replace the weight of component ``name`` by ``weight``, or restore the original with ``None``."""
        layer = self.layer(name)
        layer.weight = self.weights[name] if weight is None else nn.Parameter(weight, requires_grad=False)
        layer.product = None

    def set_activation(self, name: str, function: TapFunction | None) -> None:
        """Pass activation ``name`` through ``function``, or leave it unchanged with ``None``."""
        module, slot = self._slots[name]
        if function is None:
            module.functions.pop(slot, None)
        else:
            module.functions[slot] = function
        if isinstance(module, Layer):
            module.product = None

    def by_head(self, name: str, x: Tensor) -> Tensor:
        """Return the values ``x`` of activation ``name`` as ``(heads, K)``, a row for each attention head."""
        heads = self._heads[name]
        return x.reshape(1, -1) if heads == 1 else x.movedim(-3, 0).reshape(heads, -1)

    def spread(self, name: str, parameter: Tensor) -> Tensor:
        """Reshape a quantizer's parameter ``(R, 1)`` so that it broadcasts against activation ``name``."""
        return parameter.reshape(()) if parameter.numel() == 1 else parameter.reshape(-1, 1, 1)

    def images_first(self, name: str, x: Tensor) -> Tensor:
        """Return the values ``x`` of activation ``name`` with the batch axis first."""
        module, slot = self._slots[name]
        return module.images_first(slot, x)

    def layer(self, name: str) -> Layer:
        """Return the layer of component ``name``, which is a weight or the input of a layer."""
        module, _ = self._slots[name]
        assert isinstance(module, Layer)
        return module

    def remove(self) -> None:
        """Restore the model."""
        for module, _ in self._slots.values():
            module.untapped()
        for attention in self._attentions:
            attention.written_out = False
        for name, weight in self.weights.items():
            layer = self.layer(name)
            layer.weight, layer.product, layer.learned = weight, None, None

    def __enter__(self) -> Instrument:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
