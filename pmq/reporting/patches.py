"""Figures of the bit-widths of patches, drawn over the images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from pmq.reporting.patch_data import SHOWN, Bits, Images
from pmq.reporting.run_data import place
from pmq.reporting.style import save

WIDTHS = (0, 2, 3, 4, 5, 6, 7, 8, 32)
#: colours of ``WIDTHS``: black for tokens that are not computed, then a palette that colour-blind readers can distinguish
COLOURS = ListedColormap(["#101010", *plt.get_cmap("plasma")(np.linspace(0.05, 0.97, len(WIDTHS) - 1))])
#: colours of exact bit-widths, as opposed to means
EXACT = ScalarMappable(BoundaryNorm([-0.5, 1, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 16, 33], COLOURS.N), COLOURS)
SQUARES = "squares above a map: class token"


def plot_patches(bits: Bits, images: Images, prefix: int, title: str, folder: Path) -> list[Path]:
    """Draw the map of every layer over the first image, the maps of blocks over several images, and the mean map.

    Args:
        bits: bit-widths of tokens by activation; after the first ``prefix`` tokens, patches in the order of the image.
        images: the images ``(N, H, W, C)`` of ``bits``, from 0 to 1.
        prefix: number of class and distillation tokens.
        title: title of the figures.
        folder: folder to write to.

    Returns:
        The written files.
    """
    blocks: dict[str, list[str]] = {}
    for name in bits:
        blocks.setdefault(place(name)[0], []).append(name)
    means = {block: np.mean([bits[name] for name in names], 0) for block, names in blocks.items()}
    average = {block: mean.mean(0, keepdims=True) for block, mean in means.items()}
    table = pd.DataFrame({block: mean[0] for block, mean in average.items()}).rename_axis("token")
    return [
        *_layers(bits, blocks, images[0], prefix, title, folder),
        *_images(means, images, prefix, f"{title}: mean bit-width of the activations of each block", folder, table),
        *_mean(average, images, prefix, f"{title}: mean of {len(images)} images", folder, table),
    ]


def _layers(bits: Bits, blocks: Mapping[str, list[str]], image: Images, prefix: int, title: str, folder: Path) -> list[Path]:
    """Draw the map of each layer over one image: a row per block, a column per part of the block."""
    parts = list(dict.fromkeys(place(name)[1] for name in bits))
    figure, axes = _panels(len(blocks), len(parts))
    for row, (block, names) in enumerate(blocks.items()):
        named = {place(name)[1]: name for name in names}
        for column, part in enumerate(parts):
            if part in named:
                _overlay(axes[row][column], image, bits[named[part]][0], prefix, EXACT)
            if row == 0:
                axes[row][column].set_title(part.removesuffix(".input"), fontsize=7)
        axes[row][0].text(-0.08, 0.5, block, transform=axes[row][0].transAxes, ha="right", va="center", fontsize=7)
    names_of = {0: "not computed", 32: "FP32"}
    widths = sorted({int(b) for rows in bits.values() for b in np.unique(rows[0])})
    colours = EXACT.to_rgba(np.array(widths))
    handles = [Patch(color=c, label=names_of.get(w, f"{w} bit")) for w, c in zip(widths, colours, strict=True)]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        fontsize=7,
        frameon=False,
        title=SQUARES,
        title_fontsize=7,
    )
    figure.suptitle(f"{title}: bit-width of each patch", fontsize=9)
    rows = [{"activation": name, "token": t, "bits": int(b)} for name, tokens in bits.items() for t, b in enumerate(tokens[0])]
    return save(figure, pd.DataFrame(rows), folder, "patches-layers", ("png",))


def _images(means: Bits, images: Images, prefix: int, title: str, folder: Path, table: pd.DataFrame) -> list[Path]:
    """Draw the mean map of each block over several images: a row per image, a column per block."""
    shown = images[:SHOWN]
    figure, axes = _panels(len(shown), len(means) + 1)
    colours = _mean_colours(means)
    for row, image in enumerate(shown):
        axes[row][0].imshow(image.squeeze(), cmap="gray")
        for axis, (block, mean) in zip(axes[row][1:], means.items(), strict=True):
            _overlay(axis, image, mean[row], prefix, colours)
            if row == 0:
                axis.set_title(block, fontsize=7)
    _bar(figure, axes, colours)
    figure.suptitle(title, fontsize=9)
    return save(figure, table, folder, "patches-images", ("png",))


def _mean(average: Bits, images: Images, prefix: int, title: str, folder: Path, table: pd.DataFrame) -> list[Path]:
    """Draw the map of each block, averaged over all images."""
    figure, axes = _panels(1, len(average))
    colours = _mean_colours(average)
    for axis, (block, mean) in zip(axes[0], average.items(), strict=True):
        _overlay(axis, np.ones_like(images[0]), mean[0], prefix, colours, opacity=1.0)
        axis.set_title(f"{block}\n{mean.mean():.1f} bits", fontsize=7)
    _bar(figure, axes, colours)
    figure.suptitle(title, fontsize=9)
    return save(figure, table, folder, "patches-mean", ("png",))


def _mean_colours(bits: Bits) -> ScalarMappable:
    """Return the colours of mean bit-widths."""
    return ScalarMappable(Normalize(0, max(8.0, *(float(mean.max()) for mean in bits.values()))), plt.get_cmap("plasma"))


def _panels(rows: int, columns: int) -> tuple[Figure, Any]:
    """Create a grid of axes without frames."""
    size = (1.05 * columns + 0.9, 1.1 * rows + 0.9)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes


def _overlay(axis: Axes, image: Images, bits: NDArray[Any], prefix: int, colours: ScalarMappable, opacity: float = 0.6) -> None:
    """Draw a grid of patches over a grey image, and the ``prefix`` tokens as squares above it."""
    height, width = image.shape[:2]
    columns = round(((len(bits) - prefix) * width / height) ** 0.5)
    axis.imshow(image.mean(-1), cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0))
    grid = colours.to_rgba(bits[prefix:].reshape(-1, columns))
    axis.imshow(grid, alpha=opacity, extent=(0, width, height, 0), interpolation="nearest")
    side = width / 7
    for token, colour in enumerate(colours.to_rgba(bits[:prefix])):
        axis.add_patch(Rectangle((token * side, -side), side, side, color=colour, clip_on=False))
    axis.set_xlim(0, width)
    axis.set_ylim(height, -side if prefix else 0)


def _bar(figure: Figure, axes: Any, colours: ScalarMappable) -> None:
    """Add a colour bar for bit-widths."""
    bar = figure.colorbar(colours, ax=axes, shrink=0.8, aspect=18 if len(axes) > 1 else 8)
    bar.set_label(f"bits (0: not computed)\n{SQUARES}" if len(axes) > 1 else "bits", fontsize=7)
    bar.ax.tick_params(labelsize=7)
