"""What flags say of a model, and what its folder remembers of it."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pmq
from pmq.cli.arguments import _repeated
from pmq.cli.grouped import grouped
from pmq.cli.source import NO_FLAGS, Source
from pmq.cli.subject import open_model
from pmq.core import PmqError
from pmq.core.rundir import add_to_manifest
from pmq.models import model_info


def test_a_pruned_model_is_made_with_the_arguments_that_its_folder_remembers(tmp_path: Path) -> None:
    made = {"model_kwargs": ["patch_size=8", "depth=1", "embed_dim=24", "num_heads=2"], "input_size": (3, 32, 48)}
    source = Source(model="vit_tiny_patch16_224", num_classes=3, pretrained=False, **made)  # type: ignore[arg-type]
    model = open_model(source)
    images = torch.randn(8, 3, 32, 48)
    pmq.prune(model, images, ratio=0.25, importance="magnitude", n_calibration=8, out=tmp_path / "pruned")
    add_to_manifest(tmp_path / "pruned", {"command": made})
    found = open_model(Source(model=str(tmp_path / "pruned")))
    assert model_info(found).data_config["input_size"] == [3, 32, 48]
    with torch.no_grad():
        assert found(images).shape == (8, 3)


def test_flags_tell_how_images_are_prepared() -> None:
    source = Source(model="vit_tiny_patch16_224", pretrained=False, img_size=64, in_chans=1, mean=[0.3], std=[0.2])
    pooled: Any = open_model(replace(source, interpolation="bilinear", num_classes=4, gp="avg"))
    assert pooled.global_pool == "avg"
    config = model_info(pooled).data_config
    assert config["input_size"] == [1, 64, 64]
    assert (config["mean"], config["std"], config["interpolation"]) == ([0.3], [0.2], "bilinear")
    for wrong, told in (
        ({"mean": [0.1, 0.2]}, "mean has 2 values, but the model's images have 1 channels"),
        ({"std": [0.0]}, "std 0.0 is not positive"),
        ({"interpolation": "cubic"}, "interpolation 'cubic' is not one of bilinear"),
    ):
        with pytest.raises(PmqError, match=told):
            open_model(replace(source, **wrong))  # type: ignore[arg-type]


def test_sources_are_options_of_a_command() -> None:
    @grouped
    def command(what: str = "x", source: Source = NO_FLAGS, last: int = 3) -> tuple[str, Source, int]:
        return what, source, last

    names = list(inspect.signature(command).parameters)
    assert names[:3] == ["what", "base", "checkpoint"]
    assert names[-1] == "last"
    arguments = dict.fromkeys(names[1:-1]) | {"what": "y", "last": 4, "num_classes": 7}
    assert command(**arguments) == ("y", Source(num_classes=7), 4)
    assert Source(data="here").with_flags({"data": "there", "checkpoint": "a.pth"}) == Source(
        data="here", checkpoint=Path("a.pth")
    )


def test_flags_are_written_as_they_are_typed() -> None:
    source = Source(
        model="pkg:make", checkpoint=Path("a b.pth"), pretrained=False, mean=[0.5, 0.25], input_size=(3, 8, 8), gp="avg"
    )
    line = source.line()
    assert line == " pkg:make --checkpoint 'a b.pth' --input-size 3 8 8 --gp avg --no-pretrained --mean 0.5 0.25"
    assert _repeated(line.split())[-4:] == ["--mean", "0.5", "--mean", "0.25"]
    assert NO_FLAGS.line() == ""
