"""Quality of token scores: ``python -m pmq.bench.token_scores ALLOCATION MODEL --data ... --checkpoint ... --out FILE``.

The reference is measured square by square: the tokens of one square of patches in one activation are quantized to few bits
while all other activations are FP32 (weights are as allocated), and the error at the output is measured for each image. A
score predicts the importance of a square in an image as the sum over its tokens. The table contains the rank correlations
over the squares of an image: their mean over images and its standard error. ``fisher`` is the estimate on the same image,
``fisher_others`` the one on other images, which is all that a static map can use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from pmq.bench.subject import benchmark_parser, open_allocation
from pmq.core.choice import FLOAT
from pmq.core.files import write_csv
from pmq.core.progress import track
from pmq.patches import token_errors
from pmq.pipeline.patches.reallocator import Reallocator
from pmq.quant.divergence import output_error
from pmq.quant.quantizers import Quantizer
from pmq.quant.token_scores import SCORES, Ranker
from pmq.quant.tokens import TokenQuantizer

#: bits of a square's tokens, side of a square in patches, number of images
BITS, SIDE, IMAGES = 3, 2, 16
ACTIVATIONS = ("attn.qkv.input", "attn.proj.input", "mlp.fc1.input", "mlp.fc2.input")
Array = NDArray[Any]


def main() -> None:
    """Measure and write a CSV with one row per score and kind of activation."""
    arguments = benchmark_parser(__doc__, "allocation")
    arguments.add_argument("--blocks", type=int, nargs="+", default=[1, 4, 7, 10])
    args = arguments.parse_args()
    opened = open_allocation(args)
    reallocator = opened.reallocator
    reallocator.probe = replace(reallocator.probe, base={})
    reallocator.probe.simulator.apply({})
    images = opened.images[-IMAGES:]
    rows: list[dict[str, Any]] = []
    for activation in ACTIVATIONS:
        names = [f"blocks.{block}.{activation}" for block in args.blocks]
        correlations = [pair for name in names for pair in _correlations(reallocator, name, images)]
        for score in dict.fromkeys(score for score, _ in correlations):
            values = np.concatenate([by_image for s, by_image in correlations if s == score])
            row = {"activation": activation, "score": score, "spearman": values.mean()}
            rows.append(row | {"standard_error": values.std() / len(values) ** 0.5, "n": len(values)})
            print(rows[-1], flush=True)
        write_csv(args.out, pd.DataFrame(rows))


def _correlations(reallocator: Reallocator, name: str, images: Tensor) -> Iterator[tuple[str, Array]]:
    """Yield each score and its rank correlation with the reference for each image ``(N,)``."""
    squares = _squares(reallocator.places[name].tokens, reallocator.prefix)
    reference = _reference_errors(reallocator, name, images, squares)
    scores = _scores(reallocator, name, images) | _estimates(reallocator, name, images)
    for score, values in scores.items():
        summed = np.stack([values[:, tokens].sum(1) for tokens in squares], 1)
        yield score, np.array([spearmanr(t, s).statistic for t, s in zip(reference, summed, strict=True)])


def _squares(tokens: int, prefix: int) -> list[Array]:
    side = round((tokens - prefix) ** 0.5)
    grid = np.arange(prefix, tokens).reshape(side, side)
    starts = range(0, side, SIDE)
    return [grid[i : i + SIDE, j : j + SIDE].reshape(-1) for i in starts for j in starts]


def _at_few_bits(reallocator: Reallocator, name: str) -> Quantizer:
    low = next(choice for choice in reallocator.choices[name] if choice.bits == BITS)
    return reallocator.probe.simulator.quantizer(reallocator.places[name].component, low)


@torch.no_grad()
def _reference_errors(reallocator: Reallocator, name: str, images: Tensor, squares: list[Array]) -> Array:
    """Measure the error at the output ``(N, squares)`` when the tokens of each square are quantized."""
    probe, place = reallocator.probe, reallocator.places[name]
    quantizers = {BITS: _at_few_bits(reallocator, name)}
    reference, errors = probe.simulator.model(images), []
    for square in track(squares, name):
        bits = torch.full((place.tokens,), FLOAT.bits)
        bits[torch.from_numpy(square)] = BITS
        probe.simulator.set_activation(name, TokenQuantizer(place.component, quantizers, bits))
        errors.append(output_error(reference, probe.simulator.model(images), probe.task))
    probe.simulator.reset(name)
    return torch.stack(errors, 1).numpy()


@torch.no_grad()
def _scores(reallocator: Reallocator, name: str, images: Tensor) -> dict[str, Array]:
    """Compute each score and the squared quantization error of every token ``(N, T)``."""
    simulator, quantizer = reallocator.probe.simulator, _at_few_bits(reallocator, name)
    ranker = Ranker("norm", 0)
    recorded: dict[str, Tensor] = {}

    def watch(softmax: Tensor) -> Tensor:
        ranker.saw(softmax)
        return softmax

    def record(x: Tensor) -> Tensor:
        error = (x - quantizer(x)).square().sum(-1)
        recorded.update({score: SCORES[score](x, ranker.attention) for score in SCORES})
        recorded["error"] = error
        recorded["class_error"] = error if ranker.attention is None else error * ranker.attention.from_class
        return x

    watched = [c.name for c in simulator.inventory if c.slot == "softmax"]
    for softmax in watched:
        simulator.set_activation(softmax, watch)
    simulator.set_activation(name, record)
    simulator.model(images)
    for tapped in (*watched, name):
        simulator.reset(tapped)
    return {score: values.numpy() for score, values in recorded.items()}


def _estimates(reallocator: Reallocator, name: str, images: Tensor) -> dict[str, Array]:
    """Compute Fisher errors at few bits ``(N, T)``, from the same images and from other images."""
    places, choices = {name: reallocator.places[name]}, {name: reallocator.choices[name]}
    row = 1 + [choice.bits for choice in choices[name]].index(BITS)

    def estimate(images: Tensor) -> Array:
        return token_errors(replace(reallocator.probe, images=images), places, choices)[name].error[row]

    of_other_images = estimate(reallocator.probe.images)
    return {
        "fisher": np.stack([estimate(image) for image in images.split(1)]),
        "fisher_others": np.stack([of_other_images] * len(images)),
    }


if __name__ == "__main__":
    main()
