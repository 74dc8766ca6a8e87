"""Metrics of feature vectors: agreement of nearest neighbours and k-nearest-neighbour accuracy."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

#: number of neighbours that vote, and the temperature that divides their similarities (2104.14294)
VOTERS, TEMPERATURE = 20, 0.07
_CHUNK = 1024


def _nearest(features: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield cosines and indices ``(B, count)`` of the nearest other images, for chunks of features ``(N, C)``."""
    unit = nn.functional.normalize(features.float(), dim=1)
    for first in range(0, len(unit), _CHUNK):
        cosines = unit[first : first + _CHUNK] @ unit.T
        rows = torch.arange(len(cosines))
        cosines[rows, rows + first] = -torch.inf  # an image is not its own neighbour
        nearest = cosines.topk(min(count, len(unit) - 1), 1)
        yield nearest.values, nearest.indices


def neighbour_agreement(reference: Tensor, features: Tensor) -> float | None:
    """Return the percentage of images with the same nearest other image in both ``(N, C)``; None for a single image.

    >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.2, 0.9]])
    >>> neighbour_agreement(x, x)
    100.0
    """
    if len(reference) < 2:
        return None
    expected, nearest = (torch.cat([indices for _, indices in _nearest(x, 1)]) for x in (reference, features))
    return 100.0 * float((expected == nearest).double().mean())


def knn_top1(features: Tensor, labels: Tensor) -> float | None:
    """Return the top-1 accuracy in percent of a nearest-neighbour vote: features ``(N, C)``, labels ``(N,)``, -1 unknown.

    The nearest ``VOTERS`` other images vote, each weighted by the exponential of its cosine divided by ``TEMPERATURE``
    (Wu et al., 1805.01978; DINO, 2104.14294). None if fewer than two images have labels.

    >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.2, 0.9]])
    >>> knn_top1(x, torch.tensor([0, 0, 1, 1]))
    100.0
    """
    known = labels >= 0
    features, labels = features[known], labels[known]
    if len(labels) < 2:
        return None
    classes, first = int(labels.max()) + 1, 0
    right = 0
    for cosines, indices in _nearest(features, VOTERS):
        votes = torch.zeros(len(cosines), classes).scatter_add_(1, labels[indices], (cosines / TEMPERATURE).exp())
        right += int((votes.argmax(1) == labels[first : first + len(cosines)]).sum())
        first += len(cosines)
    return 100.0 * right / len(labels)
