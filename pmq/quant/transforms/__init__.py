"""Equivalent transforms: functions ``(model, setting)`` that rewrite weights in place without changing the outputs.

Each is checked on calibration images when it is applied, and is undone if the check fails.

To add one, write a function with ``@register("name")``, import it here and name it in a recipe.
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
