"""Find the components of a model: what gets a bit-width, and the products they enter.

A Linear and the patch embedding have a weight and an input; an attention that keeps ``qkv`` in one Linear and shows its
softmax (``attn_drop``) has the operands q, k, softmax and v. Shapes come from one forward pass of one image, so windows,
strides and token counts need no rule of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pmq.core.component import Component, Inventory, Operator, Slot
from pmq.models.stages import split_stages

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


@dataclass
class _Traced:
    input_shape: torch.Size
    output_shape: torch.Size


def is_attention(module: nn.Module) -> bool:
    """Whether q, k, softmax and v of ``module`` can be reached (timm's ``Attention`` and ``WindowAttention``)."""
    return isinstance(getattr(module, "qkv", None), nn.Linear) and all(
        hasattr(module, a) for a in ("attn_drop", "num_heads", "fused_attn")
    )


def take_inventory(model: nn.Module, image: Tensor) -> Inventory:
    """List components and products of ``model``.

    Args:
        model: any timm-built module.
        image: one image ``(1, C, H, W)`` of the size it will see.
    """
    modules = dict(model.named_modules())
    traced = _trace(model, image)
    prefixes = split_stages(model).prefixes
    classifier = _classifier_names(model)
    components: list[Component] = []
    operators: list[Operator] = []
    uncovered: list[str] = []
    for name, module in modules.items():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            if _multiplies(module):
                uncovered.append(f"{name}: no rule for {type(module).__name__}")
            continue
        reason = _why_not(name, module, traced)
        if reason:
            uncovered.append(f"{name}: {reason}")
            continue
        stage = _stage_of(name, prefixes)
        kind = _weight_kind(name, module, classifier)
        seen = traced[name]
        n_in, n_out = module.weight[0].numel(), module.weight.shape[0]
        rows = seen.output_shape.numel() // n_out
        weight = Component(name, "weight", kind, stage, tuple(module.weight.shape))
        inputs = Component(name, "input", _input_kind(name, kind, modules), stage, tuple(seen.input_shape[1:]))
        components += [weight, inputs]
        operators.append(Operator(name, rows * n_in * n_out, (weight.name, inputs.name)))
        parent = name.rpartition(".")[0]
        if kind == "qkv" and is_attention(modules[parent]):
            more, products = _attention(parent, modules[parent], seen, stage)
            components += more
            operators += products
    held = {c.module + ".weight" for c in components if c.slot == "weight"}
    rest = sum(p.numel() * p.element_size() for n, p in model.named_parameters() if n not in held)
    return Inventory(tuple(components), tuple(operators), rest, tuple(uncovered))


def _trace(model: nn.Module, image: Tensor) -> dict[str, _Traced]:
    traced: dict[str, _Traced] = {}
    handles = [
        module.register_forward_hook(lambda m, args, out, name=name: traced.__setitem__(name, _Traced(args[0].shape, out.shape)))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return traced


def _attention(name: str, module: nn.Module, qkv: _Traced, stage: int) -> tuple[list[Component], list[Operator]]:
    """Operands and the two products. Windows are rows of the batch, so only the last two axes are one attention."""
    *batch, tokens, channels = qkv.output_shape
    windows = torch.Size(batch).numel()
    dim = channels // 3
    heads = int(module.num_heads)  # type: ignore[arg-type]
    flat, attn = (windows * tokens, dim), (windows * heads * tokens, tokens)
    components = [Component(name, slot, slot, stage, attn if slot == "softmax" else flat, heads) for slot in OPERANDS]
    macs = windows * tokens * tokens * dim
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


def _multiplies(module: nn.Module) -> bool:
    """Whether a module multiplies by itself: it has matrices of its own, or an attention we cannot look into."""
    if isinstance(module, nn.MultiheadAttention | nn.Bilinear | nn.Conv1d | nn.Conv3d | nn.ConvTranspose2d):
        return True
    return hasattr(module, "fused_attn") and not is_attention(module)


def _why_not(name: str, module: nn.Linear | nn.Conv2d, traced: dict[str, _Traced]) -> str | None:
    if name not in traced:
        return "not called as a module in the forward pass"
    if isinstance(module, nn.Conv2d) and name.rpartition(".")[0] != "patch_embed":
        return "a convolution that is not the patch embedding"
    if type(module).forward not in (nn.Linear.forward, nn.Conv2d.forward):
        return f"{type(module).__name__} computes something of its own"
    return None


def _stage_of(name: str, prefixes: list[str]) -> int:
    """The stage whose prefix the module is below; the stem before all, the tail after; all one without prefixes."""
    for index, prefix in enumerate(prefixes):
        if name == prefix or name.startswith(prefix + "."):
            return index + 1
    return 0 if not prefixes or name.startswith("patch_embed") else len(prefixes) + 1
