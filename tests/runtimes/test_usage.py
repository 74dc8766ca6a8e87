"""The examples beside a deployed file do what ``pmq run`` does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pmq
from pmq.runtimes import TARGETS
from pmq.runtimes.classify import Classifier
from pmq.runtimes.images import load_image
from pmq.runtimes.labels import read_description
from pmq.runtimes.usage import EXAMPLES, Example, usage
from tests.runtimes.node import install_runtime, run_module


def code_of(text: str, language: str) -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", text, re.S)
    return str(block)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("how", [{}, {"input": "uint8", "layout": "nhwc"}], ids=["float", "uint8"])
def test_the_python_example_decides_as_pmq_run(target: str, how: dict[str, Any], tmp_path: Path) -> None:
    images = pmq.open_images(None, None).calibration_images(4, 0)
    deployed = pmq.deploy(None, "fp32", target, images, tmp_path, n_passes=3, **how)
    assert deployed.passed, deployed.proof
    noise = np.random.default_rng(0).integers(0, 255, (40, 31), np.uint8)
    picture = tmp_path / "image.jpg"
    Image.fromarray(noise).resize((310, 400)).save(picture, quality=100)
    code = code_of((tmp_path / "deployment.md").read_text(), "python")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    index, value = done.stdout.split()
    classifier = Classifier(tmp_path / deployed.file, 1)
    (answer,), _ = classifier.answers(picture, 1)
    assert int(index) == answer["index"]
    file = tmp_path / deployed.file
    prepared = load_image(picture, read_description(TARGETS[target].metadata(file), file).preprocess)
    assert float(value) == pytest.approx(float(TARGETS[target].session(file)(prepared).max()), rel=1e-3)


def test_every_target_has_examples() -> None:
    assert set(EXAMPLES) == set(TARGETS)
    for target in TARGETS:
        text = usage(target, Example("own.onnx", (1, 3, 224, 224), False, 2, None))
        assert "own.onnx" in text
        assert "(1, 3, 224, 224)" in text
        compile(code_of(text, "python"), "example", "exec")


def test_the_javascript_example_decides_as_the_file(tmp_path: Path) -> None:
    install_runtime(tmp_path)
    images = pmq.open_images(None, None).calibration_images(2, 0)
    file = tmp_path / pmq.deploy(None, "fp32", "onnxruntime", images, tmp_path, n_passes=3).file
    code = code_of((tmp_path / "deployment.md").read_text(), "js")
    # The build for browsers starts one thread only where it is told so, and fetches files.
    code = code.replace('"onnxruntime-node"', '"onnxruntime-web"').replace(f'"{file.name}"', "bytes")
    start = 'import { readFileSync } from "node:fs";\n'
    lines = f'ort.env.wasm.numThreads = 1;\nconst bytes = new Uint8Array(readFileSync("{file.name}"));\n'
    module = tmp_path / "example.mjs"
    module.write_text(start + code.replace("const session", f"{lines}const session"))
    status, text = run_module(module)
    session = TARGETS["onnxruntime"].session(file)
    assert (status, int(text)) == (0, int(session(np.zeros((1, 1, 28, 28), np.float32)).argmax()))
