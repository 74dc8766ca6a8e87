"""Find the components of a model: what gets a bit-width, and the products they enter.

A Linear and the patch embedding have a weight and an input; an attention that keeps ``qkv`` in one Linear and shows its
softmax (``attn_drop``) has the operands q, k, softmax and v. Shapes come from one forward pass of one image, so windows,
strides and token counts need no rule of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pmq.core.component import Component, Inventory, Operator, Slot, Uncovered
from pmq.models.attention import Layout, Unexplained, explain, is_attention
from pmq.models.stages import split_stages
from pmq.models.trace import Call, Macs, Way, watch

#: kind of a weight by the last part of its module's name
WEIGHT_KINDS = {"qkv": "qkv", "proj": "proj", "fc1": "fc1", "fc2": "fc2", "reduction": "reduction"}
#: kind of the input of a weight of that kind; fc2's depends on its activation function
INPUT_KINDS = {
    "patch_embed": "image",
    "qkv": "norm",
    "fc1": "norm",
    "proj": "attention",
    "reduction": "norm",
    "head": "features",
}
OPERANDS: tuple[Slot, ...] = ("q", "k", "softmax", "v")


#: why what a module of others multiplies by itself is no product of the inventory
REASONS: dict[Way, str] = {
    "matrix": "{} multiplies by matrices outside of its layers",
    "batch": "no rule for the products of {}",
    "convolution": "{} convolves outside of its layers",
}


@dataclass(frozen=True)
class _Shapes:
    """What a layer was given in a call, and what it gave."""

    input: torch.Size
    output: torch.Size


def take_inventory(model: nn.Module, image: Tensor) -> Inventory:
    """List components and products of ``model``, and whatever else it multiplies.

    Args:
        model: any timm-built module.
        image: one image ``(1, C, H, W)`` of the size it will see.
    """
    shapes: dict[str, list[_Shapes]] = defaultdict(list)
    calls: dict[str, list[Call]] = defaultdict(list)

    def see(name: str, module: nn.Module, call: Call) -> None:
        if _is_layer(module):
            shapes[name].append(_Shapes(call.input.shape, call.output.shape))
        elif is_attention(module):
            calls[name].append(call)

    macs = watch(model, image, see)
    called, total = set(macs), sum(ways.total() for ways in macs.values())
    modules = dict(model.named_modules())
    layouts, reasons = _explained(modules, calls)
    prefixes = split_stages(model).prefixes
    classifier = _classifier_names(model)
    components: list[Component] = []
    operators: list[Operator] = []
    for name, module in modules.items():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        why = _why_not(name, module, called)
        if why:
            reasons[name] = why
            continue
        kind, stage, parent = _weight_kind(name, module, classifier), _stage_of(name, prefixes), name.rpartition(".")[0]
        more, product = _layer(name, module, shapes[name], (kind, _input_kind(name, kind, modules)), stage)
        components += more
        operators.append(product)
        macs[name]["convolution" if isinstance(module, nn.Conv2d) else "matrix"] -= product.macs
        if kind == "qkv" and parent in layouts:
            operands, products = _attention(parent, layouts[parent], stage)
            components += operands
            operators += products
            macs[parent]["batch"] -= sum(product.macs for product in products)
    held = {c.module + ".weight" for c in components if c.slot == "weight"}
    rest = sum(p.numel() * p.element_size() for n, p in model.named_parameters() if n not in held)
    return Inventory(tuple(components), tuple(operators), rest, tuple(_uncovered(modules, macs, reasons)), total)


def _explained(modules: dict[str, nn.Module], calls: dict[str, list[Call]]) -> tuple[dict[str, list[Layout]], dict[str, str]]:
    """Layouts of attentions in each of their calls; and why others have none."""
    layouts, reasons = {}, {}
    for name, made in calls.items():
        try:
            layouts[name] = [explain(modules[name], call) for call in made]
        except Unexplained as reason:
            reasons[name] = str(reason)
    return layouts, reasons


def _uncovered(modules: dict[str, nn.Module], macs: Macs, reasons: dict[str, str]) -> Iterator[Uncovered]:
    """Name what multiplies and is no product of the inventory, and layers that are never called, in model order."""
    for name, module in modules.items():
        layer = isinstance(module, nn.Linear | nn.Conv2d)
        if layer and name in reasons:
            yield Uncovered(name, reasons[name], macs[name].total())
            continue
        leaf = next(module.children(), None) is None
        for way, left in macs[name].items():
            if left > 0:
                reason = "no rule for {}" if leaf else reasons.get(name, REASONS[way]) if way == "batch" else REASONS[way]
                yield Uncovered(name, reason.format(type(module).__name__), left)


def _layer(
    name: str, module: nn.Linear | nn.Conv2d, calls: list[_Shapes], kinds: tuple[str, str], stage: int
) -> tuple[list[Component], Operator]:
    """Weight and input of a layer, as large as in its largest call, and its product in all of its calls."""
    n_in, n_out = module.weight[0].numel(), module.weight.shape[0]
    largest = max((call.input for call in calls), key=lambda shape: shape.numel())
    weight = Component(name, "weight", kinds[0], stage, tuple(module.weight.shape))
    inputs = Component(name, "input", kinds[1], stage, tuple(largest[1:]))
    rows = sum(call.output.numel() for call in calls) // n_out
    return [weight, inputs], Operator(name, rows * n_in * n_out, (weight.name, inputs.name))


def _attention(name: str, calls: list[Layout], stage: int) -> tuple[list[Component], list[Operator]]:
    """Operands, as large as in the largest call, and the two products in all calls."""
    largest = max(calls, key=lambda layout: layout.macs)
    flat = (largest.windows * largest.tokens, largest.heads * largest.width)
    attn = (largest.windows * largest.heads * largest.tokens, largest.tokens)
    shapes = {slot: attn if slot == "softmax" else flat for slot in OPERANDS}
    components = [Component(name, slot, slot, stage, shape, largest.heads) for slot, shape in shapes.items()]
    macs = sum(layout.macs for layout in calls)
    return components, [
        Operator(f"{name}.q@k", macs, (f"{name}.q", f"{name}.k")),
        Operator(f"{name}.attn@v", macs, (f"{name}.softmax", f"{name}.v")),
    ]


def _weight_kind(name: str, module: nn.Module, classifier: tuple[str, ...]) -> str:
    if isinstance(module, nn.Conv2d):
        return "patch_embed"
    if name in classifier:
        return "head"
    return WEIGHT_KINDS.get(name.rpartition(".")[2], "linear")


def _input_kind(name: str, kind: str, modules: dict[str, nn.Module]) -> str:
    if kind == "fc2":
        act = getattr(modules[name.rpartition(".")[0]], "act", None)
        return "gelu" if "gelu" in type(act).__name__.lower() else "hidden"
    return INPUT_KINDS.get(kind, "linear")


def _classifier_names(model: nn.Module) -> tuple[str, ...]:
    config = getattr(model, "pretrained_cfg", None) or {}
    names = config.get("classifier") or "head"
    names = (names,) if isinstance(names, str) else tuple(names)
    return (*names, *(f"{n}.fc" for n in names))


def _is_layer(module: nn.Module) -> bool:
    """Whether a Linear or a convolution computes what its class says."""
    plain = type(module).forward in (nn.Linear.forward, nn.Conv2d.forward) and "forward" not in vars(module)
    return isinstance(module, nn.Linear | nn.Conv2d) and plain


def _why_not(name: str, module: nn.Linear | nn.Conv2d, called: set[str]) -> str | None:
    if name not in called:
        return "not called as a module in the forward pass"
    if isinstance(module, nn.Conv2d) and name.rpartition(".")[0] != "patch_embed":
        return "a convolution that is not the patch embedding"
    if isinstance(module, nn.Conv2d) and (module.groups > 1 or module.padding_mode != "zeros" or isinstance(module.padding, str)):
        return "a convolution in groups, or whose padding is not a number of zeros"
    if not _is_layer(module):
        return f"{type(module).__name__} computes something of its own"
    return None


def _stage_of(name: str, prefixes: list[str]) -> int:
    """The stage whose prefix the module is below; the stem before all, the tail after; all one without prefixes."""
    for index, prefix in enumerate(prefixes):
        if name == prefix or name.startswith(prefix + "."):
            return index + 1
    return 0 if not prefixes or name.startswith("patch_embed") else len(prefixes) + 1
