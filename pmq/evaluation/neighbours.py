"""What vectors are for: which images lie next to each other, and what class their neighbours have."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

#: neighbours that vote, and the temperature that their similarities are divided by (2104.14294)
VOTERS, TEMPERATURE = 20, 0.07
_CHUNK = 1024


def _similar(features: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cosines and indices ``(B, count)`` of each image's nearest others, for chunks of features ``(N, C)``."""
    unit = nn.functional.normalize(features.float(), dim=1)
    for first in range(0, len(unit), _CHUNK):
        cosines = unit[first : first + _CHUNK] @ unit.T
        own = torch.arange(len(cosines))
        cosines[own, own + first] = -torch.inf  # nobody is one's own neighbour
        found = cosines.topk(min(count, len(unit) - 1), 1)
        yield found.values, found.indices


def neighbour_agreement(reference: Tensor, features: Tensor) -> float | None:
    """Percent of images whose nearest other one is the same in both ``(N, C)``; none for a single image.

    >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.2, 0.9]])
    >>> neighbour_agreement(x, x)
    100.0
    """
    if len(reference) < 2:
        return None
    wanted, found = (torch.cat([indices for _, indices in _similar(x, 1)]) for x in (reference, features))
    return 100.0 * float((wanted == found).double().mean())


def knn_top1(features: Tensor, labels: Tensor) -> float | None:
    """Top-1, percent, of the classes that the other images' votes give: ``(N, C)``, labels ``(N,)``, -1 unknown.

    The nearest ``VOTERS`` vote, each by the exponential of its cosine (Wu et al., 1805.01978; DINO, 2104.14294). None where
    fewer than two images have labels.

    >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.2, 0.9]])
    >>> knn_top1(x, torch.tensor([0, 0, 1, 1]))
    100.0
    """
    known = labels >= 0
    features, labels = features[known], labels[known]
    if len(labels) < 2:
        return None
    classes, at = int(labels.max()) + 1, 0
    right = 0
    for cosines, indices in _similar(features, VOTERS):
        votes = torch.zeros(len(cosines), classes).scatter_add_(1, labels[indices], (cosines / TEMPERATURE).exp())
        right += int((votes.argmax(1) == labels[at : at + len(cosines)]).sum())
        at += len(cosines)
    return 100.0 * right / len(labels)
