"""Neighbours of features, beside their definition written out."""

from __future__ import annotations

import pytest
import torch

from pmq.core import PmqError
from pmq.core.task import Task
from pmq.evaluation.neighbours import TEMPERATURE, VOTERS, knn_top1, neighbour_agreement
from pmq.evaluation.whole_set import Metric, WholeSetMetrics

GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.randint(4, (90,), generator=GENERATOR)
FEATURES = torch.randn(90, 8, generator=GENERATOR) + 1.5 * torch.eye(8)[LABELS]


def cosines(features: torch.Tensor) -> torch.Tensor:
    found = torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=-1)
    return found.fill_diagonal_(-9)


def test_votes_are_of_the_nearest_others() -> None:
    right = 0
    for own, row in zip(LABELS, cosines(FEATURES), strict=True):
        votes = [0.0] * 4
        for other in row.argsort(descending=True)[:VOTERS]:
            votes[int(LABELS[other])] += float((row[other] / TEMPERATURE).exp())
        right += votes.index(max(votes)) == int(own)
    assert knn_top1(FEATURES, LABELS) == pytest.approx(100 * right / 90)
    assert 40 < 100 * right / 90 < 100


def test_images_without_labels_do_not_vote() -> None:
    some = LABELS.clone()
    some[::3] = -1
    known = some >= 0
    assert knn_top1(FEATURES, some) == knn_top1(FEATURES[known], some[known])
    assert knn_top1(FEATURES, torch.full((90,), -1)) is None


def test_agreement_is_that_of_the_nearest() -> None:
    moved = FEATURES + 0.3 * torch.randn(FEATURES.shape, generator=GENERATOR)
    same = (cosines(FEATURES).argmax(1) == cosines(moved).argmax(1)).double().mean()
    assert neighbour_agreement(FEATURES, moved) == pytest.approx(100 * float(same))
    assert 0 < float(same) < 1
    assert neighbour_agreement(FEATURES[:1], moved[:1]) is None


def test_a_metric_that_cannot_be_used_is_told() -> None:
    def figures(metric: Metric, labels: torch.Tensor | None) -> dict[str, float | None]:
        found = WholeSetMetrics(Task(), custom=True)
        found.add(FEATURES, [FEATURES], labels)
        return found.figures(1, metric)[0]

    with pytest.raises(PmqError, match="needs targets"):
        figures(lambda outputs, targets: 1.0, None)
    with pytest.raises(PmqError, match=r"no number for outputs \(90, 8\)"):
        figures(lambda outputs, targets: outputs, LABELS)
    assert figures(lambda outputs, targets: len(targets), LABELS)["metric"] == 90
