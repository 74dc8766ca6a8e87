"""What lies between a picture and a model is part of what is proved: how images are prepared, and what a file takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import pmq
from pmq.core import PmqError
from pmq.data import open_data
from pmq.models import model_info
from pmq.runtimes import TARGETS
from pmq.runtimes.images import load_image
from pmq.runtimes.intake import Intake
from pmq.runtimes.labels import read_description
from tests.conftest import make_tiny
from tests.pruning.test_units import own

OPTIONS = {"recipe": "minmax", "n_passes": 3}
CONFIG = {"mean": [0.2, 0.3, 0.4], "std": [0.3, 0.2, 0.25], "interpolation": "bilinear", "crop_pct": 1.0}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures in colour, in grey, with transparency and a palette, upright and turned."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(7):
        (root / f"c{number}").mkdir()
        for i, mode in enumerate(("RGB", "L", "RGBA", "P")):
            coarse = rng.integers(0, 256, (6, 7, 4 if mode == "RGBA" else 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((50 + number, 40 + i), Image.Resampling.BICUBIC)
            image.convert(mode).save(root / f"c{number}" / f"{i}.png")
    return root


def model(**told: object) -> nn.Module:
    found = make_tiny()
    found.pretrained_cfg = {**CONFIG, "architecture": "tiny", "input_size": (3, 32, 32), **told}
    return found


@pytest.mark.parametrize(
    ("target", "values", "layout"),
    [("onnxruntime", "uint8", "nhwc"), ("onnxruntime", "float", "nhwc"), ("openvino", "uint8", "nchw")],
)
def test_files_prepare_what_they_are_given(target: str, values: str, layout: str, pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip(TARGETS[target].runtime)
    module = model()
    source = open_data(str(pictures), model_info(module)).evaluation
    images, files = source.first_readable(range(24), 24), source.files_of(range(24))
    found = pmq.deploy(
        module,
        "w8a8",
        target,
        images,
        tmp_path,
        calibration_images=images,
        input=values,
        layout=layout,
        pictures=files,
        **OPTIONS,  # type: ignore[arg-type]
    )
    assert found.passed, found.proof
    assert (found.input, found.layout) == (values, layout)
    assert found.proof["pictures"].measured == 100
    session = TARGETS[target].session(tmp_path / found.file)
    kind = "uint8" if values == "uint8" else "float32"
    assert session.inputs[0].fits((1, 32, 32, 3) if layout == "nhwc" else (1, 3, 32, 32), kind)
    description = read_description(TARGETS[target].metadata(tmp_path / found.file), tmp_path / found.file)
    description.check(session, tmp_path / found.file)
    shown = load_image(Path(files[0]), description.preprocess)
    assert shown.dtype == (np.uint8 if values == "uint8" else np.float32)
    float_file = pmq.deploy(module, "w8a8", target, images, tmp_path / "f", calibration_images=images, **OPTIONS)  # type: ignore[arg-type]
    wanted = TARGETS[target].session(tmp_path / "f" / float_file.file)(images[:1].numpy())
    np.testing.assert_allclose(session(shown), wanted, atol=0.05 * np.abs(wanted).max())


def test_pictures_that_were_prepared_otherwise_fail_the_proof(pictures: Path, tmp_path: Path) -> None:
    source = open_data(str(pictures), model_info(model(crop_pct=0.5))).evaluation
    images, files = source.first_readable(range(24), 24), source.files_of(range(24))
    found = pmq.deploy(model(), "fp32", "onnxruntime", images, tmp_path, pictures=files, **OPTIONS)  # type: ignore[arg-type]
    assert not found.passed
    assert not found.proof["pictures"].passed
    assert found.file.endswith(".failed.onnx")


def test_a_model_that_does_not_say_is_asked(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = torch.randn(16, 3, 32, 32)
    plain = pmq.deploy(own(), "fp32", "onnxruntime", images, tmp_path / "plain", **OPTIONS)  # type: ignore[arg-type]
    assert "does not state how its images are prepared, and pmq does not guess" in capsys.readouterr().err
    assert "pmq.preprocess" not in TARGETS["onnxruntime"].metadata(tmp_path / "plain" / plain.file)
    with pytest.raises(PmqError, match="to prepare pixel values, and the model does not state how; pass `mean` and `std`"):
        pmq.deploy(own(), "fp32", "onnxruntime", images, tmp_path / "raw", input="uint8")
    assert not (tmp_path / "raw").exists()
    with pytest.raises(PmqError, match=r"does not state how its images are prepared; pass `mean` and `std`"):
        open_data(str(pictures), model_info(own()))
    found = pmq.search(
        own(),
        images,
        "8bit",
        space="onnxruntime",
        options=pmq.SearchOptions(data_config=CONFIG, recipe="minmax", n_rounds=1, max_evals=4),
    )
    assert found.allocation.model.data_config["mean"] == CONFIG["mean"]
    deployed = pmq.deploy(own(), found.allocation, "onnxruntime", images, tmp_path, n_passes=3)
    texts = TARGETS["onnxruntime"].metadata(tmp_path / deployed.file)
    assert json.loads(texts["pmq.preprocess"])["std"] == CONFIG["std"]


def test_what_is_not_said_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    part = {"mean": 0.5, "std": 0.5}
    pmq.deploy(own(), "fp32", "onnxruntime", torch.randn(4, 3, 32, 32), tmp_path, data_config=part, **OPTIONS)  # type: ignore[arg-type]
    assert "preprocessing is not fully specified; defaults: interpolation bicubic, crop_pct 0.875" in capsys.readouterr().err
    with pytest.raises(PmqError, match="data config: 'means' is not one of mean, std"):
        pmq.deploy(own(), "fp32", "onnxruntime", torch.randn(4, 3, 32, 32), tmp_path, data_config={"means": 0})


def test_values_of_pictures_survive_being_prepared() -> None:
    raw = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    intake = Intake.of("uint8", "nhwc", {"mean": [0.3], "std": [0.7]})
    images = (raw.float() / 255 - 0.3) / 0.7
    assert np.array_equal(intake.fed(images), raw.numpy().transpose(0, 2, 3, 1))
    torch.testing.assert_close(intake.representable(images), images)
    for values, layout, told in (("int8", "nchw", "input 'int8' is not one of float, uint8"), ("float", "hwc", "layout 'hwc'")):
        with pytest.raises(PmqError, match=told):
            Intake.of(values, layout, {})


def test_images_of_four_channels_go_from_arrays_to_a_file_that_takes_them(tmp_path: Path) -> None:
    module, rng = make_tiny(in_chans=4), np.random.default_rng(0)
    module.pretrained_cfg = {"input_size": (4, 32, 32), "architecture": "tiny"}
    for number in range(24):
        (tmp_path / "arrays" / f"c{number % 7}").mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (32, 32, 4)).astype(np.uint8)
        np.save(tmp_path / "arrays" / f"c{number % 7}" / f"{number}.npy", pixels)
    config = {"mean": [0.5, 0.4, 0.3, 0.2], "std": [0.3]}
    source = pmq.open_images(tmp_path / "arrays", module, data_config=config).evaluation
    images, files = source.first_readable(range(24), 24), source.files_of(range(24))
    assert images.shape == (24, 4, 32, 32)
    for values in ("float", "uint8"):
        out = tmp_path / values
        options = {"calibration_images": images, "input": values, "pictures": files, "data_config": config, **OPTIONS}
        found = pmq.deploy(module, "w8a8", "onnxruntime", images, out, **options)  # type: ignore[arg-type]
        assert found.passed, found.proof
        assert found.proof["pictures"].measured == 100
    plain = pmq.deploy(module, "w8a8", "onnxruntime", images, tmp_path / "plain", calibration_images=images, **OPTIONS)  # type: ignore[arg-type]
    assert plain.passed
