"""Workaround that makes timm importable where torchvision's compiled operators cannot be loaded.

PyPI's torchvision is built against a CUDA torch. With a CPU-only torch its shared library does not load, and the import then
fails while registering fake kernels for operators that were never declared. Only two schemas are missing, and pmq calls
neither of them.
"""

from __future__ import annotations

import importlib
import sys

import torch

_BOX_SUPPRESSION = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
#: holder of the declared schemas, which exist as long as this object
_library: torch.library.Library | None = None


def ensure_torchvision() -> bool:
    """Import torchvision, declaring its missing operator schemas only where the import needs them.

    Returns:
        True if the schemas had to be declared, False if torchvision can be imported without them.

    Raises:
        RuntimeError: torchvision fails for another reason.
    """
    global _library
    if _library is not None:
        return True
    try:
        importlib.import_module("torchvision")
        return False
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]  # the failed import leaves half-initialised modules behind
    _library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _library.define(name + _BOX_SUPPRESSION)
    importlib.import_module("torchvision")
    return True
