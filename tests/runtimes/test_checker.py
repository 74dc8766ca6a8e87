"""A bundle finds nothing in the file that was proved, and the layer in which another file differs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import pmq
from pmq.runtimes import TARGETS, checker
from pmq.runtimes.checker import PROGRAMS, Observed
from tests.runtimes.node import install_runtime, run_module

TAMPERED = "blocks.1.mlp.fc1"


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def deployed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(request.param)
    images = pmq.open_images(None, None)
    calibration = images.calibration_images(16, 0)
    deployment = pmq.deploy(
        None, "w6a8", request.param, calibration[:8], out, calibration_images=calibration, n_passes=3, bundle=True
    )
    assert deployment.passed, deployment.proof
    return out / deployment.file


def tampered(file: Path) -> Path:
    """Return a copy of a file in which some integers of one layer's weight differ."""
    model = onnx.load(file)
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == f"{TAMPERED}.weight")
    integers = numpy_helper.to_array(weight).copy()
    integers.reshape(-1)[::10] ^= 0x88  # the highest bits of two digits
    weight.CopyFrom(numpy_helper.from_array(integers, weight.name))
    onnx.save(model, file.with_name("tampered.onnx"))
    return file.with_name("tampered.onnx")


def run(command: list[str], folder: Path) -> tuple[int, str]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def check(run: Callable[..., tuple[int, str]], file: Path) -> None:
    """Check that a program finds nothing in the file that was proved, and the layer in which another differs."""
    status, text = run()
    assert status == 0, text
    assert "same decision as the simulation: 4 of 4 images" in text
    assert "first tensor that differs: none of 26" in text
    assert float(re.findall(r"latency: ([\d.]+) ms, 1 thread", text)[0]) > 0
    status, text = run(str(tampered(file)))
    assert status == 1, text
    assert f"first tensor that differs: {TAMPERED}.output: relative error 0." in text


def test_the_python_program_names_the_layer_that_differs(deployed: Path) -> None:
    folder = deployed.parent / "check"
    check(lambda *arguments: run([sys.executable, "check.py", *arguments], folder), deployed)
    assert "(the one that was proved)" in run([sys.executable, "check.py"], folder)[1]
    assert "(NOT the one that was proved)" in run([sys.executable, "check.py", str(tampered(deployed))], folder)[1]


def test_the_javascript_program_names_the_layer_that_differs(deployed: Path) -> None:
    folder = deployed.parent / "check"
    if not (folder / "check.mjs").exists():
        pytest.skip("a program for onnxruntime")
    install_runtime(folder)
    check(lambda *arguments: run_module(folder / "check.mjs", *arguments), deployed)


def test_the_cpp_program_names_the_layer_that_differs(deployed: Path) -> None:
    if "openvino" not in deployed.name or shutil.which("g++") is None:
        pytest.skip("needs a compiler, and OpenVINO, whose package has what it compiles against")
    home = Path(str(find_spec("openvino").origin)).parent  # type: ignore[union-attr]
    (library,) = (home / "libs").glob("libopenvino.so.*")
    folder = deployed.parent / "check"
    flags = [f"-I{home / 'include'}", str(library), f"-Wl,-rpath,{home / 'libs'}"]
    run(["g++", "-std=c++17", "check.cpp", "-o", "check", *flags], folder)
    check(lambda *arguments: run(["./check", *arguments], folder), deployed)


def test_a_bundle_shows_its_pictures_and_goes_with_its_file(deployed: Path) -> None:
    folder = deployed.parent / "check"
    assert Image.open(folder / "picture-3.png").size == (28, 28)
    assert "python check.py" in (folder / "README.md").read_text()
    if "openvino" not in deployed.name:
        images = pmq.open_images(None, None).calibration_images(8, 0)
        pmq.deploy(None, "fp32", "onnxruntime", images, deployed.parent, n_passes=3)
        assert not folder.exists(), "the bundle of another file stayed"


def test_every_target_has_a_program() -> None:
    assert set(PROGRAMS) == set(TARGETS)
    parts = Path(str(checker.__file__)).parent / "parts"
    assert {part for programs in PROGRAMS.values() for part in programs.values()} == {path.name for path in parts.glob("*.*")}


def test_sampled_values_meet_every_channel() -> None:
    values = np.arange(2 * 50 * 192, dtype=np.float32).reshape(2, 50, 192)
    observed = Observed("layer.output", values, values)
    assert observed.sampled(values).shape[1] <= 4096
    assert set(observed.sampled(values)[0] % 192) == set(range(192))
