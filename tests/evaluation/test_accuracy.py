import pytest
import torch

from pmq.core.task import CLASSIFICATION, Task
from pmq.evaluation import Accuracy, Evaluator, evaluate_models
from pmq.quant import Simulator
from pmq.quant.divergence import kl_divergence, output_error
from pmq.quant.threads import threads_of_operators
from tests.conftest import Tiny, make_tiny


def test_batches_add_up_and_unknown_labels_do_not_count() -> None:
    generator = torch.Generator().manual_seed(0)
    reference, output = torch.randn(2, 30, 9, generator=generator)
    labels = torch.randint(-1, 9, (30,), generator=generator)
    whole, first, second = Accuracy(), Accuracy(), Accuracy()
    whole.update(reference, output, labels)
    first.update(reference[:11], output[:11], labels[:11])
    second.update(reference[11:], output[11:], labels[11:])
    assert (first + second).compute() == pytest.approx(whole.compute())
    known = labels >= 0
    top1 = 100 * float((output.argmax(1) == labels)[known].float().mean())
    assert whole.compute()["top1"] == pytest.approx(top1)
    assert whole.compute()["top5"] > top1


def test_kl_agrees_with_torch_and_is_zero_on_itself() -> None:
    a, b = torch.randn(2, 5, 7)
    want = torch.nn.functional.kl_div(b.log_softmax(1), a.log_softmax(1), log_target=True, reduction="none").sum(1)
    torch.testing.assert_close(kl_divergence(a, b), want)
    assert float(kl_divergence(a, a).abs().max()) == 0
    assert float(output_error(a, 2 * a, Task("features")).mean()) == pytest.approx(1)


def test_features_have_no_agreement() -> None:
    sums = Accuracy(task=Task("features"))
    sums.update(torch.ones(2, 4), torch.zeros(2, 4))
    found = sums.compute()
    assert found["feature_error"] == 1
    assert found["agreement"] is found["kl"] is found["top1"] is None


def test_judge_and_evaluation_agree(tiny: Tiny, simulator: Simulator) -> None:
    assignment = tiny.space.uniform(4, 4)
    evaluator = Evaluator(simulator, tiny.images, CLASSIFICATION, batch_size=5)
    judged = evaluator.evaluate(assignment).compute()
    parts = [evaluator.evaluate(assignment, part) for part in range(len(evaluator.parts))]
    assert (parts[0] + parts[1] + parts[2]).compute() == pytest.approx(judged)
    batches = [(x, None) for x in tiny.images.split(5)]
    reference = make_tiny()
    fp32, evaluated = evaluate_models(reference, [reference, simulator.model], batches, CLASSIFICATION)
    assert fp32["agreement"] == 100
    assert fp32["kl"] == 0
    assert evaluated["kl"] == pytest.approx(judged["kl"])
    assert evaluated["agreement"] == judged["agreement"]
    assert evaluated["images_per_s"] > 0


def test_several_threads_find_what_one_finds(tiny: Tiny) -> None:
    """Quantizers that are fitted, and batches that are compared, at the same time."""
    found = []
    for n_threads in (1, 4):
        with threads_of_operators(n_threads), Simulator(tiny.model, tiny.inventory, tiny.calibration) as simulator:
            evaluator = Evaluator(simulator, tiny.images, CLASSIFICATION, batch_size=8)
            found.append(evaluator.evaluate(tiny.space.uniform(3, 5)))
    assert found[0].sums == found[1].sums
    assert found[0].n_images == len(tiny.images)
    assert found[0].mean_error > 0


def test_half_precision_is_compared_with_full(tiny: Tiny, simulator: Simulator) -> None:
    simulator.apply(tiny.space.uniform(8, 8))
    batches, reference = [(x, None) for x in tiny.images.split(5)], make_tiny()
    half, full = (evaluate_models(reference, [simulator.model], batches, CLASSIFICATION, amp)[0] for amp in (True, False))
    assert full["amp_agreement"] is None
    assert half["amp_agreement"] >= 90
    assert half["kl"] != full["kl"]
    assert half["kl"] < full["kl"] + 0.05
