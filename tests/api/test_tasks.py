"""What outputs mean decides how errors are measured: one logit, values and features beside several logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import pmq
from pmq.core import PmqError
from pmq.core.task import Task
from pmq.evaluation import Accuracy
from pmq.quant import output_error
from tests.asked import asked
from tests.conftest import make_tiny
from tests.shallow import few_bits

pytestmark = pytest.mark.usefixtures("shallow")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def centred(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """The model with a bias by which half of its decisions are yes."""
    with torch.no_grad():
        model.head.bias -= model(images).median()
    return model


def bernoulli_kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


def test_one_logit_is_measured_by_its_logistic_function() -> None:
    reference, output = torch.tensor([[1.5], [-0.2], [0.1]]), torch.tensor([[1.0], [0.3], [0.2]])
    wanted = bernoulli_kl(reference.double().sigmoid(), output.double().sigmoid())[:, 0]
    torch.testing.assert_close(output_error(reference, output, Task("binary")).double(), wanted, rtol=1e-4, atol=1e-7)
    sums = Accuracy(task=Task("binary"))
    sums.update(reference, output, torch.tensor([1, 0, 0]))
    found = sums.compute()
    assert found["agreement"] == pytest.approx(200 / 3)
    assert found["top1"] == pytest.approx(100 / 3)
    assert found["top5"] is None
    assert found["kl"] == pytest.approx(float(wanted.mean()), rel=1e-4)


def test_values_are_measured_beside_the_mean_square_of_fp32() -> None:
    reference, output = torch.tensor([[2.0], [0.0], [1.0]]), torch.tensor([[2.5], [0.1], [1.0]])
    for scale in (1.0, 7.0):  # which only says how sums are kept
        sums = Accuracy(task=Task("regression", scale))
        sums.update(reference[:2], output[:2])
        sums.update(reference[2:], output[2:])
        found = sums.compute()
        assert found["feature_error"] == pytest.approx((0.25 + 0.01) / 5)
        assert found["agreement"] is found["kl"] is found["top1"] is None


@pytest.mark.parametrize("task", ["auto", "regression"])
def test_a_model_with_one_output_is_searched(images: torch.Tensor, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = centred(make_tiny(num_classes=1), images)
    result = pmq.search(
        model,
        images,
        "4bit",
        space=few_bits(2, 4, 6),
        options=pmq.SearchOptions(n_rounds=1, task=task),
        split=pmq.DataSplit(n_calibration=8, n_held_out=16),
    )
    allocation, points = result.allocation, result.points
    assert allocation.task == ("binary" if task == "auto" else "regression")
    assert ("logit of a decision" in capsys.readouterr().err) == (task == "auto")
    error = "kl" if task == "auto" else "feature_error"
    uniform = points.set_index("source")[error]
    assert uniform["uniform w4a4"] > max(uniform["uniform w6a6"], uniform["uniform w8a8"])
    assert min(uniform["uniform w6a6"], uniform["uniform w8a8"]) > 0
    assert 0 < allocation.metrics[error] < 2 * uniform["uniform w4a4"]  # a few images of a model without training tell little
    table = pmq.evaluate(model, [allocation, "w3a3"], [images], calibration_images=images[:8])
    assert (table[error] > 0).all()
    with torch.no_grad():
        exact, simulated = model(images), pmq.simulate(model, allocation)(images)
    if task == "auto":
        agreed = 100 * float(((exact > 0) == (simulated > 0)).float().mean())
        assert table["agreement"][0] == pytest.approx(agreed)
    else:
        assert table["agreement"].isna().all()
        relative = float((exact - simulated).square().sum() / exact.square().sum())
        assert table["feature_error"][0] == pytest.approx(relative, rel=1e-3)


def test_reconstruction_and_scaling_of_one_logit_help(images: torch.Tensor) -> None:
    model = centred(make_tiny(num_classes=1), images)
    shared = {"calibration_images": images[:16], "space": "runnable"}  # even levels, which leave much to learn
    table = pmq.evaluate(model, "w3a3", [images], recipe="best", **shared)
    plain = pmq.evaluate(model, "w3a3", [images], recipe="minmax", **shared)
    assert table["kl"][0] < plain["kl"][0]


@pytest.mark.parametrize(
    ("asked", "classes", "told"),
    [
        ("detection", 5, "not one of auto, classification"),
        ("binary", 5, "does not fit a model with 5 output"),
        ("classification", 1, "does not fit a model with 1 output"),
        ("regression", 0, "does not fit a model with no classifier"),
    ],
)
def test_tasks_that_do_not_fit_are_refused(asked: str, classes: int, told: str) -> None:
    with pytest.raises(PmqError, match=told.replace("(", r"\(")):
        Task.of(asked, classes)


def test_metrics_know_one_logit(images: torch.Tensor) -> None:
    model = centred(make_tiny(num_classes=1), images)
    metrics = ("fisher", "gradient", "hawq", "snip", "superposition", "measured")
    table = pmq.sensitivity(model, images, metrics, n_calibration=8, space="w4a8")
    for name in metrics:
        part = table[table["metric"] == name]
        assert (part["error"].abs() > 0).any(), name
    pruned = pmq.prune(model, images, ratio=0.25, round_to=1)
    assert pruned.allocation.task == "binary"


class _Dense(nn.Module):
    """Gives classes of positions, ``(B, 5, 4, 4)``."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = make_tiny(), nn.Conv2d(32, 5, 1)
        self.pretrained_cfg = {**self.body.pretrained_cfg, "input_size": (3, 32, 32)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.body.forward_features(x)[:, 1:]
        y: torch.Tensor = self.head(tokens.mT.unflatten(-1, (4, 4)))
        return y


@pytest.mark.parametrize(("task", "shape"), [("multilabel", (24, 7)), ("dense", (24, 5, 4, 4))])
def test_several_decisions_for_each_image_are_searched_pruned_and_deployed(
    task: str, shape: tuple[int, ...], images: torch.Tensor, tmp_path: Path
) -> None:
    model = make_tiny() if task == "multilabel" else _Dense().eval()
    with torch.no_grad():
        logits = model(images)
    assert logits.shape == shape
    result = pmq.search(
        model,
        images,
        "6bit",
        options=pmq.SearchOptions(n_rounds=1, max_evals=2, recipe="fast", task=task),
        split=pmq.DataSplit(n_calibration=8, n_held_out=16),
    )
    found = result.allocation
    assert found.task == task
    truth = (logits > 0).long() if task == "multilabel" else logits.argmax(1)
    (row,) = pmq.evaluate(model, [found], [(images, truth)]).to_dict("records")
    assert row["top1"] == pytest.approx(row["agreement"])  # the truth is what FP32 decides
    assert 60 < row["agreement"] < 100
    with torch.no_grad():
        output = pmq.simulate(model, found)(images)
    if task == "multilabel":
        p = logits.sigmoid()
        each = p * (nn.functional.logsigmoid(logits) - nn.functional.logsigmoid(output))
        each = each + (1 - p) * (nn.functional.logsigmoid(-logits) - nn.functional.logsigmoid(-output))
        assert row["kl"] == pytest.approx(float(each.sum(1).mean()), rel=1e-3)
    else:
        p, q = logits.log_softmax(1), output.log_softmax(1)
        assert row["kl"] == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), rel=1e-3)
    pruned = pmq.prune(model, images, ratio=0.25, task=task)
    assert pruned.allocation.task == task
    options = {"calibration_images": images, "recipe": "minmax", "n_passes": 3, "task": task}
    deployed = pmq.deploy(model, "w8a8", "onnxruntime", images[:8], tmp_path, **options)  # type: ignore[arg-type]
    assert deployed.proof["agreement"].measured > 95


def one_class(reference: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """What the first class alone is given, before the softmax."""
    return (output[:, 0] - reference[:, 0]).square()


def test_a_loss_of_ones_own_decides_what_is_found(
    images: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_tiny()
    options = {"space": few_bits(2, 4, 6), "n_calibration": 8, "n_held_out": 16, "n_rounds": 1}
    own = pmq.search(model, images, "4bit", out=tmp_path / "run", **asked(**options, loss=one_class))  # type: ignore[arg-type]
    assert "errors are measured by tests.api.test_tasks.one_class(reference, output)" in capsys.readouterr().err
    assert own.allocation.task == "classification"
    assert own.allocation.metrics["kl"] is None
    uniform = own.points.set_index("source")["feature_error"]
    assert 0 < own.allocation.metrics["feature_error"] < uniform["uniform w4a4"]
    usual = pmq.search(model, images, "4bit", **asked(**options))  # type: ignore[arg-type]
    assert usual.allocation.components != own.allocation.components
    table = pmq.evaluate(
        model,
        [own.allocation, usual.allocation],
        [(images, torch.arange(24) % 7)],
        loss=one_class,
        metric=lambda outputs, targets: float(outputs.softmax(-1)[targets == 2, 0].sum()),
    )
    for row, found in zip(table.to_dict("records"), (own, usual), strict=True):
        with torch.no_grad():
            exact, simulated = model(images), pmq.simulate(model, found.allocation)(images)
        assert row["feature_error"] == pytest.approx(float(one_class(exact, simulated).mean()), rel=1e-3)
        assert row["metric"] == pytest.approx(float(simulated.softmax(-1)[2::7, 0].sum()), rel=1e-3)
        assert row["agreement"] is not None
    assert (tmp_path / "run" / "report.html").is_file()
    measured = pmq.sensitivity(model, images, ("fisher", "gradient", "measured"), n_calibration=8, space="w4a8", loss=one_class)
    assert (measured.groupby("metric")["error"].max() > 0).all()


def test_a_loss_that_cannot_be_used_is_told(images: torch.Tensor) -> None:
    def of_all(reference: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        return one_class(reference, output).mean()

    with pytest.raises(PmqError, match="one finite value for each of 4 images"):
        pmq.search(make_tiny(), images, "4bit", options=pmq.SearchOptions(loss=of_all))
    with pytest.raises(PmqError, match="without `patches`"):
        pmq.search(make_tiny(), images, "4bit", options=pmq.SearchOptions(loss=one_class, patches="static"))
    with pytest.raises(PmqError, match="does not support a custom loss"):
        pmq.sensitivity(make_tiny(), images, ("superposition",), n_calibration=8, space="w4a8", loss=one_class)


def test_features_are_judged_by_their_neighbours(images: torch.Tensor) -> None:
    model = make_tiny(num_classes=0)
    labels = torch.arange(24) % 3
    table = pmq.evaluate(model, ["fp32", "w3a3"], [(images, labels)], calibration_images=images[:8])
    exact, rough = table.to_dict("records")
    assert (exact["cosine"], exact["neighbour_agreement"]) == (pytest.approx(1.0), 100.0)
    assert 0 < rough["cosine"] < 1
    assert rough["neighbour_agreement"] < 100
    assert 0 <= exact["knn_top1"] <= 100
    (bare,) = pmq.evaluate(model, "fp32", [images]).to_dict("records")
    assert bare["knn_top1"] is None
