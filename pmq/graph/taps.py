"""Modules that multiply in a captured graph: each computes what the model did, and shows its operands on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

#: receives an activation, gives what the model goes on with
TapFunction = Callable[[Tensor], Tensor]

#: where a node that calls such a module tells the slots of its operands
SLOTS = "slots"


class Tapped(nn.Module):
    """Base of modules whose activations may be looked at or changed, by the name of their slot."""

    #: slots of its activations, in the order in which it takes them
    slots: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.functions: dict[str, TapFunction] = {}
        #: the axis along which images lie, of each activation and of the ``output``, where that is not the first
        self.axes: dict[str, int] = {}

    def tapped(self, slot: str, x: Tensor) -> Tensor:
        """Pass an operand through its function, if it has one, in single precision at least."""
        function = self.functions.get(slot)
        return x if function is None else function(x if x.dtype == torch.float64 else x.float())

    def images_first(self, slot: str, x: Tensor) -> Tensor:
        """Move the axis along which images lie to the front of an activation, or of the ``output``."""
        axis = self.axes.get(slot, 0)
        return x.movedim(axis, 0) if axis else x

    def untapped(self) -> None:
        """Let all activations through untouched."""
        self.functions.clear()


class Layer(Tapped):
    """A product of an activation and a weight: ``operator(x, weight, bias, *settings)``, linear or a convolution.

    ``learned`` gives a weight for each pass. ``product``, of input and bias, computes the same in another way where no
    gradient is wanted.

    Args:
        operator: torch's function.
        weight: ``(O, I)`` or ``(O, I / groups, ...)``; of a transposed convolution ``(I, O / groups, ...)``.
        bias: ``(O,)`` or none.
        settings: what the operator takes after them: of a convolution stride, padding, dilation, groups.
    """

    slots = ("input",)

    def __init__(
        self, operator: Callable[..., Tensor], weight: Tensor, bias: Tensor | None, settings: Sequence[Any] = ()
    ) -> None:
        super().__init__()
        self.operator, self.settings = operator, tuple(settings)
        self.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)
        self.bias: nn.Parameter | None
        self.register_parameter("bias", bias if bias is None or isinstance(bias, nn.Parameter) else nn.Parameter(bias))
        self.learned: Callable[[], Tensor] | None = None
        self.product: Callable[[Tensor, Tensor | None], Tensor] | None = None

    @property
    def kind(self) -> str:
        """The name of its operator, such as ``linear`` or ``conv2d``."""
        return str(getattr(self.operator, "__name__", "linear")).partition(".")[0]

    @property
    def groups(self) -> int:
        """Into how many its channels are divided; 1 of a linear."""
        places = {"conv1d": 3, "conv2d": 3, "conv3d": 3, "conv_transpose1d": 4, "conv_transpose2d": 4, "conv_transpose3d": 4}
        place = places.get(self.kind, 99)
        return int(self.settings[place]) if len(self.settings) > place else 1

    def sides(self, place: int, default: int) -> tuple[int, ...]:
        """A setting of a convolution for each side, such as its stride, which is the first, or its padding, the second."""
        value = self.settings[place] if len(self.settings) > place else default
        given = tuple(value) if isinstance(value, list | tuple) else (value,)
        return given * (self.weight.ndim - 2) if len(given) == 1 else given

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution, whose weight has its inputs first."""
        return self.kind.startswith("conv_transpose")

    @property
    def outputs(self) -> int:
        """How many channels it gives."""
        return int(self.weight.shape[1] * self.groups if self.transposed else self.weight.shape[0])

    def __call__(self, input: Tensor) -> Tensor:
        """Compute the layer; hooks get what it is given by place, whatever the caller does."""
        y: Tensor = super().__call__(input)
        return y

    def forward(self, input: Tensor) -> Tensor:
        """Compute the layer."""
        if self.product is not None and not torch.is_grad_enabled():
            return self.product(input.float(), self.bias)
        weight = self.weight if self.learned is None else self.learned()
        return self.operator(self.tapped("input", input), weight, self.bias, *self.settings)

    def macs(self, x: Tensor, y: Tensor) -> int:
        """Multiply-accumulates that take ``x`` to ``y``."""
        if self.transposed:
            return x.numel() * self.weight[0].numel()
        channel = self.weight.shape[0]
        return y.numel() // channel * self.weight.numel()


class Product(Tapped):
    """A product of two activations: ``operator(a, b) * scale``.

    Args:
        operator: torch's function, of both.
        slots: what its operands are called.
        transposed: multiply by ``b`` with its last two axes exchanged.
        scale: number that the product is multiplied by.
    """

    def __init__(
        self, operator: Callable[[Tensor, Tensor], Tensor], slots: tuple[str, str], transposed: bool = False, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.operator, self.slots, self.transposed, self.scale = operator, slots, transposed, scale

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply."""
        a, b = self.tapped(self.slots[0], a), self.tapped(self.slots[1], b)
        if self.scale != 1.0:
            a = a * self.scale
        return self.operator(a, b.mT if self.transposed else b)

    def macs(self, a: Tensor, b: Tensor, y: Tensor) -> int:
        """Multiply-accumulates that take operands to ``y``: one for each combination of all their indices."""
        equation = getattr(self.operator, "equation", None)
        if equation is None:
            return y.numel() * a.shape[-1]
        terms = equation.replace(" ", "").partition("->")[0].split(",")
        sizes = {index: n for term, x in zip(terms, (a, b), strict=True) for index, n in zip(term, x.shape, strict=True)}
        return math.prod(sizes.values())


class Attention(Tapped):
    """``softmax(q @ k.mT * scale + mask) @ v`` with operands ``(..., T, D)``: fused, unless it is to be ``written_out``.

    What is tapped is written out, and all attentions of a model on which there is an instrument are: sums of floats in another
    order would make figures depend on which operands happen to be looked at.

    Args:
        scale: of the products; ``1 / sqrt(D)`` without.
        causal: hide from each token those behind it.
        grouped: queries of several heads share keys and values.
    """

    slots = ("q", "k", "softmax", "v")

    def __init__(self, scale: float | None = None, causal: bool = False, grouped: bool = False) -> None:
        super().__init__()
        self.scale, self.causal, self.grouped = scale, causal, grouped
        self.written_out = False

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend."""
        if not (self.written_out or self.functions or torch.compiler.is_exporting()):  # exporters stumble over the fused one
            settings: dict[str, Any] = {"enable_gqa": True} if self.grouped else {}
            return nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=self.causal, scale=self.scale, **settings)
        # In one piece heads are quantized, and multiplied, faster than as views of what a joint layer gave.
        q, k, v = (self.tapped(slot, x.contiguous()) for slot, x in (("q", q), ("k", k), ("v", v)))
        if self.grouped:
            k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], -3) for x in (k, v))
        scale = 1 / math.sqrt(q.shape[-1]) if self.scale is None else self.scale
        products = (q * scale) @ k.mT
        if self.causal:
            hidden = torch.ones(products.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            products = products.masked_fill(hidden, -torch.inf)
        if mask is not None:
            products = products.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else products + mask
        return self.tapped("softmax", products.softmax(-1)) @ v
