"""Real images and weights, where there are some."""

from __future__ import annotations

import json

from tests.conftest import IMAGENET, WEIGHTS, needs_imagenet, pmq


@needs_imagenet
def test_real_images_and_weights_have_their_known_accuracy() -> None:
    args = ["deit_tiny_patch16_224", "--checkpoint", str(WEIGHTS / "deit_tiny_patch16_224.safetensors")]
    quick = ["--recipe", "mse", "--calib-images", "32"]
    done = pmq("evaluate", "w8a8", *args, "--data", str(IMAGENET), "--crop-pct", "0.98678", "--limit", "200", *quick, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["top1"] > 70  # wrong class numbers or preprocessing would be far below
    assert answer["agreement"] > 90
