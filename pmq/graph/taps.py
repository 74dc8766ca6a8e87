"""Modules that compute the products of a captured graph and expose their operands to tap functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

#: function that receives an activation and returns the activation the model continues with
TapFunction = Callable[[Tensor], Tensor]

#: key in the metadata of a node that states the kind of the tensor, where its operator does not
KIND = "kind"
#: key of a node's ``meta`` with the slots of the operands of the called module
SLOTS = "slots"


class Tapped(nn.Module):
    """Base class of modules whose activations can be observed or replaced, by the name of their slot."""

    #: slots of the activations, in the order of the arguments
    slots: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.functions: dict[str, TapFunction] = {}
        #: batch axis by slot, and of the ``output``, where it is not the first axis
        self.axes: dict[str, int] = {}

    def tapped(self, slot: str, x: Tensor) -> Tensor:
        """Return an operand after its tap function, if it has one, in single precision or better."""
        function = self.functions.get(slot)
        return x if function is None else function(x if x.dtype == torch.float64 else x.float())

    def images_first(self, slot: str, x: Tensor) -> Tensor:
        """Return an activation, or the ``output``, with its batch axis first."""
        axis = self.axes.get(slot, 0)
        return x.movedim(axis, 0) if axis else x

    def untapped(self) -> None:
        """Remove all tap functions."""
        self.functions.clear()


class Layer(Tapped):
    """Linear layer or convolution, a product of an activation and a weight: ``operator(x, weight, bias, *settings)``.

    Args:
        operator: torch's function.
        weight: ``(O, I)`` or ``(O, I / groups, ...)``; of a transposed convolution ``(I, O / groups, ...)``.
        bias: ``(O,)`` or None.
        settings: further arguments of the operator: for a convolution stride, padding, dilation, groups.

    Attributes:
        learned: function that returns the weight of each forward pass, in place of ``weight``; or None.
        product: function of input and bias that replaces the operator where gradients are disabled; or None.
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
        """Name of the operator, such as ``linear`` or ``conv2d``."""
        return str(getattr(self.operator, "__name__", "linear")).partition(".")[0]

    @property
    def groups(self) -> int:
        """Number of groups that the channels are divided into; 1 for a linear layer."""
        places = {"conv1d": 3, "conv2d": 3, "conv3d": 3, "conv_transpose1d": 4, "conv_transpose2d": 4, "conv_transpose3d": 4}
        place = places.get(self.kind, 99)
        return int(self.settings[place]) if len(self.settings) > place else 1

    def sides(self, place: int, default: int) -> tuple[int, ...]:
        """Return a setting of a convolution for each spatial axis, such as its stride (place 0) or its padding (place 1)."""
        value = self.settings[place] if len(self.settings) > place else default
        values = tuple(value) if isinstance(value, list | tuple) else (value,)
        return values * (self.weight.ndim - 2) if len(values) == 1 else values

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution, whose weight has the input channels first."""
        return self.kind.startswith("conv_transpose")

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return int(self.weight.shape[1] * self.groups if self.transposed else self.weight.shape[0])

    def __call__(self, input: Tensor) -> Tensor:
        """Return the layer's output; hooks receive the input as a positional argument even where the caller names it."""
        y: Tensor = super().__call__(input)
        return y

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output."""
        if self.product is not None and not torch.is_grad_enabled():
            return self.product(input.float(), self.bias)
        weight = self.weight if self.learned is None else self.learned()
        return self.operator(self.tapped("input", input), weight, self.bias, *self.settings)

    def macs(self, x: Tensor, y: Tensor) -> int:
        """Return the multiply-accumulates from input ``x`` to output ``y``."""
        if self.transposed:
            return x.numel() * self.weight[0].numel()
        channel = self.weight.shape[0]
        return y.numel() // channel * self.weight.numel()


class Product(Tapped):
    """Product of two activations: ``operator(a, b) * scale``.

    Args:
        operator: torch's function of both operands.
        slots: names of the operands.
        transposed: whether to transpose the last two axes of ``b``.
        scale: factor of the product.
    """

    def __init__(
        self, operator: Callable[[Tensor, Tensor], Tensor], slots: tuple[str, str], transposed: bool = False, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.operator, self.slots, self.transposed, self.scale = operator, slots, transposed, scale

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the product of ``a`` and ``b``."""
        a, b = self.tapped(self.slots[0], a), self.tapped(self.slots[1], b)
        if self.scale != 1.0:
            a = a * self.scale
        return self.operator(a, b.mT if self.transposed else b)

    def macs(self, a: Tensor, b: Tensor, y: Tensor) -> int:
        """Return the multiply-accumulates from the operands to ``y``: one for each combination of all indices."""
        equation = getattr(self.operator, "equation", None)
        if equation is None:
            return y.numel() * a.shape[-1]
        terms = equation.replace(" ", "").partition("->")[0].split(",")
        sizes = {index: n for term, x in zip(terms, (a, b), strict=True) for index, n in zip(term, x.shape, strict=True)}
        return math.prod(sizes.values())


class TensorTap(Tapped):
    """Tap of a tensor that is no operand of its own: the result of an operator, or a constant.

    Args:
        kind: kind of its component.
    """

    slots = ("tensor",)

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """Return the tensor after its tap function."""
        return self.tapped("tensor", x)


class Attention(Tapped):
    """Attention ``softmax(q @ k.mT * scale + mask) @ v`` of operands ``(..., T, D)``, fused unless it is ``written_out``.

    An attention with tap functions is written out, and so are all attentions of a model under an instrument: the fused
    function sums in another order, so results would depend on which operands happen to be observed.

    Args:
        scale: factor of the products; ``1 / sqrt(D)`` if None.
        causal: whether to mask the later tokens for each token.
        grouped: whether queries of several heads share keys and values.
    """

    slots = ("q", "k", "softmax", "v")

    def __init__(self, scale: float | None = None, causal: bool = False, grouped: bool = False) -> None:
        super().__init__()
        self.scale, self.causal, self.grouped = scale, causal, grouped
        self.written_out = False

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the attention's output ``(..., T, D)``."""
        if not (self.written_out or self.functions or torch.compiler.is_exporting()):  # exporters fail on the fused function
            settings: dict[str, Any] = {"enable_gqa": True} if self.grouped else {}
            return nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=self.causal, scale=self.scale, **settings)
        # Contiguous heads are quantized and multiplied faster than views of a joint layer's output.
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
