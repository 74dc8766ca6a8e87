"""Make timm importable where torchvision's compiled operators cannot load.

PyPI's torchvision is built against a CUDA torch. Beside a CPU-only torch its shared library does not load, and the
import then fails while registering fake kernels for operators that nobody declared. Only two schemas are missing, and
nothing in pmq calls them.
"""

from __future__ import annotations

import importlib
import sys

import torch

_BOX_SUPPRESSION = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: torch.library.Library | None = None  # the schemas live as long as this object


def ensure_torchvision() -> bool:
    """Import torchvision, declaring its missing operator schemas when, and only when, the import needs them.

    Returns:
        True if the schemas had to be declared, False if torchvision imports as it is.

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
