"""The page that classifies pictures in a browser, against ``pmq run``."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

import pmq
from pmq.core import PmqError
from pmq.runtimes.classify import Classifier
from pmq.runtimes.images import load_image
from pmq.runtimes.labels import Preprocess
from pmq.runtimes.web import write_demo
from pmq.runtimes.web.npm import FILES, web_runtime
from pmq.runtimes.web.server import server_of
from tests.reporting.browser import Page, page

__all__ = ["page"]
PARTS = Path(str(pmq.__file__)).parent / "runtimes" / "web" / "parts"
SCRIPT = """
const { prepared, tensorOf, withChannels } = require(process.argv[1]);
const { facts, width, height, rgba } = JSON.parse(require("fs").readFileSync(0, "utf-8"));
const image = prepared(withChannels(rgba, width, height, facts.input_size[0]), facts);
console.log(JSON.stringify(Array.from(tensorOf(image, facts).data)));
"""


def picture(path: Path, width: int, height: int, seed: int = 0) -> Path:
    """Write a picture with edges, gradients and noise."""
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(seed)
    waves = np.stack([np.sin(x / 7), np.cos(y / 5), np.sin((x + y) / 11)], -1) * 90 + 128
    Image.fromarray((waves + rng.integers(-30, 30, waves.shape)).clip(0, 255).astype(np.uint8)).save(path)
    return path


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
@pytest.mark.parametrize("interpolation", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
@pytest.mark.parametrize(
    ("size", "how"),
    [
        ((3, 32, 32), {"crop_pct": 0.9}),
        ((1, 28, 28), {"crop_pct": 1.0, "layout": "nhwc", "values": "uint8"}),
        ((3, 24, 40), {"crop_pct": 0.875}),
        ((3, 32, 32), {"crop_pct": 0.8, "crop_mode": "squash"}),
        ((3, 32, 32), {"crop_pct": 1.0, "crop_mode": "border"}),
    ],
)
@pytest.mark.parametrize("shape", [(61, 47), (20, 33)])
def test_pictures_are_prepared_as_by_pmq_run(
    interpolation: str, size: tuple[int, int, int], how: dict[str, Any], shape: tuple[int, int], tmp_path: Path
) -> None:
    channels = size[0]
    preprocess = Preprocess(
        input_size=size, interpolation=interpolation, mean=(0.4,) * channels, std=(0.3,) * channels, num_classes=3, **how
    )
    file = picture(tmp_path / "picture.png", *shape)
    with Image.open(file) as opened:
        rgba = np.asarray(opened.convert("RGBA")).reshape(-1).tolist()
    data = {"facts": preprocess.model_dump(), "width": shape[0], "height": shape[1], "rgba": rgba}
    line = ["node", "-e", SCRIPT, str(PARTS / "resample.js")]
    done = subprocess.run(line, input=json.dumps(data), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, wanted = np.array(json.loads(done.stdout)), load_image(file, preprocess).reshape(-1)
    step = 1.0 if preprocess.values == "uint8" else 1 / (255 * 0.3)
    assert np.abs(found - wanted).max() < 1e-3 * step  # the same pixels; the rest is rounding of floats


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployed")
    images = pmq.open_images(None, None).calibration_images(24, 0)
    options: dict[str, Any] = {"calibration_images": images[:16], "recipe": "minmax", "n_passes": 3}
    done = pmq.deploy(None, "w4a4", "onnxruntime", images[16:], folder, **options)
    assert done.passed, done.proof
    return folder / done.file


def test_the_page_answers_as_pmq_run(deployed: Path, page: Page, tmp_path: Path) -> None:
    try:
        runtime = web_runtime()
    except PmqError as error:
        pytest.skip(str(error))
    write_demo(deployed, tmp_path / "page", runtime)
    pictures = [picture(tmp_path / f"{seed}.png", 60 + seed, 50, seed) for seed in range(3)]
    classifier = Classifier(deployed)
    with server_of(tmp_path / "page", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.driver.get(f"http://127.0.0.1:{server.server_address[1]}/")
        WebDriverWait(page.driver, 60).until(lambda driver: driver.find_elements(By.CSS_SELECTOR, "body[data-ready]"))
        for file in pictures:
            page.find("#file").send_keys(str(file))
            WebDriverWait(page.driver, 60).until(
                lambda driver, name=file.name: driver.find_elements(By.CSS_SELECTOR, f"body[data-answered='{name}']")
            )
            rows = page.driver.find_elements(By.CSS_SELECTOR, "#answers tr")
            answers, _ = classifier.answers(file, 5)
            assert len(rows) == len(answers)
            assert int(rows[0].get_attribute("data-index") or -1) == answers[0]["index"]
            assert answers[0]["name"] in rows[0].text
            assert float(rows[0].text.split()[-2]) == pytest.approx(100 * answers[0]["probability"], abs=3)
        page.driver.save_screenshot(str(tmp_path / "demo.png"))
        server.shutdown()
    assert not page.errors()


def test_files_that_no_page_can_show_are_refused(deployed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    with pytest.raises(PmqError, match=r"has no ort.wasm.min.mjs"):
        web_runtime(runtime)
    for name in FILES:
        (runtime / name).write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    given = web_runtime(runtime)
    assert {path.name for path in given.iterdir()} == set(FILES)
    assert pmq.demo(deployed, tmp_path / "page", web_runtime=runtime).name == "index.html"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    with pytest.raises(PmqError, match="is no page of pmq demo"):
        pmq.demo(deployed, tmp_path / "mine", web_runtime=runtime)
    assert (tmp_path / "mine" / "index.html").read_text() == "mine"
    other = pmq.deploy(None, "fp32", "openvino", pmq.open_images(None, None).calibration_images(4, 0), tmp_path / "o", n_passes=3)
    with pytest.raises(PmqError, match="openvino"):
        pmq.demo(tmp_path / "o" / other.file, tmp_path / "page", web_runtime=runtime)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(PmqError, match=r"npm.*not installed"):
        web_runtime()


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with server_of(tmp_path, 0) as server, pytest.raises(PmqError, match="another `port`"):
        server_of(tmp_path, server.server_address[1])
