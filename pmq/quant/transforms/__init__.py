"""Equivalent transforms: functions ``(model, setting)`` that rewrite weights in place and leave the outputs as they are.

Each proves itself on calibration images when it is applied, and is undone where it fails.

A new one: a function with ``@register("name")``, imported here, named in a recipe.
"""

from pmq.quant.transforms.base import TRANSFORMS, Setting, Transform, apply_transforms
from pmq.quant.transforms.norms import center_channels, fold_norms, scale_channels
from pmq.quant.transforms.rotation import center_values, rotate_heads, rotate_residual

__all__ = [
    "TRANSFORMS",
    "Setting",
    "Transform",
    "apply_transforms",
    "center_channels",
    "center_values",
    "fold_norms",
    "rotate_heads",
    "rotate_residual",
    "scale_channels",
]
