"""A success in which hardly anything was quantized is none: what is searched is said, and less than half needs a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import pmq
from pmq.core import PmqError
from tests.conftest import make_tiny

pytestmark = pytest.mark.usefixtures("shallow")


class Chains(nn.Module):
    """Nearly all of it multiplies three tensors at once, of which no two are a product."""

    num_classes = 5

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(3, 24)), nn.Parameter(torch.randn(24, 24))
        self.head = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.einsum("bchw,cd,de->behw", x, self.first, self.second).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_a_model_of_which_little_is_reached_is_refused(images: torch.Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model, options = Chains().eval(), {"calibration_images": images, "recipe": "minmax"}
    with pytest.raises(PmqError, match=r"only 0\.0 % of multiply-accumulates .* einsum .* `partial` continues"):
        pmq.evaluate(model, "w8a8", [images], **options)
    with pytest.raises(PmqError, match="`partial`"):
        pmq.search(model, images, "w8a8", split=pmq.DataSplit(n_calibration=4, n_held_out=12))
    with pytest.raises(PmqError, match="`partial`"):
        pmq.sensitivity(model, images, n_calibration=4)
    capsys.readouterr()
    table = pmq.evaluate(model, ["w8a8", "fp32"], [images], partial=True, **options)
    assert (table["macs_searched"] < 1).all()
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("warning: searched: 0.0 % of multiply-accumulates")
    assert "einsum" in first


def test_what_a_search_decides_about_is_told_and_kept(
    images: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = pmq.search(
        make_tiny(),
        images,
        "w8a8",
        space="w4a8",
        out=tmp_path / "run",
        options=pmq.SearchOptions(n_rounds=1),
        split=pmq.DataSplit(n_calibration=4, n_held_out=12),
    )
    assert "searched: 100.0 % of multiply-accumulates" in capsys.readouterr().err
    assert result.coverage.macs_searched == pytest.approx(100)
    assert 80 < result.coverage.bytes_searched < 100  # embeddings, norms and biases are no components
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["macs_searched"] == pytest.approx(100)
    assert manifest["bytes_searched"] == pytest.approx(result.coverage.bytes_searched)
    assert "100" in (tmp_path / "run" / "report.html").read_text()
    inventory = json.loads((tmp_path / "run" / "inventory.json").read_text())
    assert sum(op["macs"] for op in inventory["operators"]) == inventory["total_macs"]


def test_a_space_that_leaves_products_alone_is_told_of_them(images: torch.Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    pmq.sensitivity(make_tiny(), images, ("fisher",), space="onnxruntime", n_calibration=4)
    (line,) = [text for text in capsys.readouterr().err.splitlines() if "searched:" in text]
    assert "q@k at 32 bits" in line or "searched: 9" in line
