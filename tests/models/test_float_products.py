"""The library that multiplies FP32 matrices is changed only where products stay as precise."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pmq.models import float_products
from pmq.models.float_products import is_precise, multiplies_by_onednn, multiply_by_onednn, torch_default


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave the process as it was."""
    before = torch.backends.mkldnn.matmul.fp32_precision
    yield
    torch.backends.mkldnn.matmul.fp32_precision = before


def test_products_stay_precise() -> None:
    multiply_by_onednn()
    assert is_precise()


@pytest.mark.parametrize(
    ("slowed", "precise"), [(False, True), (True, False)], ids=["other processors", "products would lose precision"]
)
def test_setting_is_left_or_taken_back(slowed: bool, precise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    monkeypatch.setattr(float_products, "SLOWED", ("",) if slowed else ("a vendor that no processor names",))
    monkeypatch.setattr(float_products, "is_precise", lambda: precise)
    assert not multiply_by_onednn()
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_torch_multiplies_as_if_nothing_were_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float_products, "_is_slowed", lambda: True)
    monkeypatch.setattr(float_products, "is_precise", lambda: True)
    assert multiply_by_onednn() == multiplies_by_onednn() == torch.backends.mkl.is_available()
    found = torch.backends.mkldnn.matmul.fp32_precision
    with torch_default():
        assert torch.backends.mkldnn.matmul.fp32_precision == "none"
        assert not multiplies_by_onednn()
    assert torch.backends.mkldnn.matmul.fp32_precision == found


def test_bfloat16_is_told_from_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    linear = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda x, w: linear(x.bfloat16(), w.bfloat16()).float())
    assert not is_precise()
