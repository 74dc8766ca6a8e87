"""Choice of the library that multiplies FP32 matrices on a processor."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pmq.core.memory import keep_freed_memory

#: vendors, as processors name themselves, on whose processors torch's default library does not use the widest instructions
SLOWED = ("AuthenticAMD",)
#: largest relative error of an FP32 product; products with operands in bfloat16 are wrong by 0.002
TOLERANCE = 1e-5
#: torch's own setting, and the one with which oneDNN multiplies
UNSET, BY_ONEDNN = "none", "bf16"
#: sizes ``(T, I, O)`` of the products that are checked
CHECKED = ((64, 64, 64), (256, 768, 256), (1024, 192, 768))


def multiply_by_onednn() -> bool:
    """Let oneDNN compute FP32 products in this process where torch's default, MKL, is slow; return whether it does.

    MKL uses AVX-512 on Intel's processors only; on AMD's, oneDNN takes half the time for the same precision. Torch has no
    setting for the library alone: it uses oneDNN if that may compute with bfloat16, which oneDNN does on processors with
    instructions for it that AMD's do not have. So the setting is kept only if products are as precise as FP32's. It concerns
    the whole process, so programs call this function, not the package on import.
    """
    matmul = _matmul()
    if matmul is None or not (_is_slowed() and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    before = matmul.fp32_precision
    matmul.fp32_precision = BY_ONEDNN
    if is_precise():
        return True
    matmul.fp32_precision = before
    return False


def multiplies_by_onednn() -> bool:
    """Return whether oneDNN computes FP32 products in this process."""
    matmul = _matmul()
    return matmul is not None and matmul.fp32_precision == BY_ONEDNN


def tune_process() -> None:
    """Set this process up as the command line does: keep freed memory, and let oneDNN multiply where that is faster."""
    keep_freed_memory()
    multiply_by_onednn()


@contextmanager
def torch_default() -> Iterator[None]:
    """Let torch multiply as it does where nothing was set, for as long as the context lasts: what others compare with."""
    matmul = _matmul()
    if matmul is None:
        yield
        return
    before = matmul.fp32_precision
    matmul.fp32_precision = UNSET
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _matmul() -> Any:
    """Return torch's settings of oneDNN's products, or None before torch 2.9, which has none."""
    return getattr(torch.backends.mkldnn, "matmul", None)


def _is_slowed() -> bool:
    info = Path("/proc/cpuinfo")
    names = platform.processor() + (info.read_text(errors="replace") if info.is_file() else "")
    return any(vendor in names for vendor in SLOWED)


@torch.no_grad()
def is_precise() -> bool:
    """Return whether FP32 products, and products of stacked matrices, have the precision of FP32 in this process.

    >>> is_precise()
    True
    """
    generator = torch.Generator().manual_seed(0)
    for rows, inputs, outputs in CHECKED:
        x, weight = torch.randn(rows, inputs, generator=generator), torch.randn(outputs, inputs, generator=generator)
        exact = x.double() @ weight.double().T
        stacked = torch.stack([x, x]) @ weight.T.contiguous().expand(2, -1, -1)
        for product in (torch.nn.functional.linear(x, weight), stacked[0], stacked[1]):
            if (product - exact).norm() > TOLERANCE * exact.norm():
                return False
    return True
