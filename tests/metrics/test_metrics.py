"""A conformance class that every metric passes by adding a line."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import kendalltau

from pmq.core import FLOAT, Choice, PmqError
from pmq.core.task import CLASSIFICATION, Task
from pmq.graph import analyse
from pmq.metrics import METRICS, Probe, SensitivityTable
from pmq.quant import Simulator, calibrate, output_error
from pmq.quant.prepare import Compensating
from pmq.quant.threads import threads_of_operators
from tests.conftest import Tiny, make_tiny

NAMES = ["fisher", "fisher_elementwise", "fisher_shrunk", "gradient", "hawq", "l2", "measured", "snip", "sqnr", "superposition"]


def test_every_metric_is_under_conformance() -> None:
    assert sorted(METRICS) == NAMES


@pytest.mark.parametrize("name", NAMES)
class TestMetricConformance:
    def test_fills_every_component_and_choice(self, name: str, tiny: Tiny, simulator: Simulator) -> None:
        table = METRICS[name].measure(Probe(simulator, tiny.images[:4]), tiny.space.choices)
        for component, choices in tiny.space.choices.items():
            for choice in choices:
                assert table.get(component, choice) >= 0
        frame = table.frame(tiny.inventory)
        assert len(frame) == sum(map(len, tiny.space.choices.values()))
        assert frame["error"].notna().all()

    def test_leaves_the_model_as_it_was_and_repeats(self, name: str, tiny: Tiny, simulator: Simulator) -> None:
        with torch.no_grad():
            before = tiny.model(tiny.images)
        a, b = (METRICS[name].measure(Probe(simulator, tiny.images[:4]), tiny.space.choices) for _ in range(2))
        assert a.errors == b.errors
        with torch.no_grad():
            assert torch.equal(tiny.model(tiny.images), before)

    def test_around_a_quantized_point_errors_are_beside_it_or_beside_fp32(
        self, name: str, tiny: Tiny, simulator: Simulator
    ) -> None:
        base = {n: next((c for c in choices if c.bits == 4), choices[-1]) for n, choices in tiny.space.choices.items()}
        table = METRICS[name].measure(Probe(simulator, tiny.images[:4], base=base), tiny.space.choices)
        unpinned = [n for n, c in tiny.space.choices.items() if len(c) > 1]
        zero = [table.get(n, base[n]) == 0 for n in unpinned]
        assert all(zero) if METRICS[name].relative else sum(zero) < 0.5 * len(zero)
        changed = [table.get(n, c) != 0 for n in unpinned for c in tiny.space.choices[n] if c != base[n]]
        assert sum(changed) >= 0.5 * len(changed)  # curvature can be negative away from FP32, which a trace counts as none

    def test_takes_what_is_journaled_and_records_the_rest(self, name: str, tiny: Tiny, simulator: Simulator) -> None:
        known = {("blocks.0.mlp.fc1.weight", c): 42.0 for c in tiny.space.choices["blocks.0.mlp.fc1.weight"]}
        recorded = []
        table = METRICS[name].measure(
            Probe(simulator, tiny.images[:4]),
            tiny.space.choices,
            lambda n, c: known.get((n, c)),
            lambda n, c, e: recorded.append((n, c)),
        )
        assert all((table.get(n, c) == 42.0) == METRICS[name].piecewise for n, c in known)
        assert (table.effects is not None) == METRICS[name].has_effects
        assert len(recorded) == sum(map(len, tiny.space.choices.values())) - len(known)
        assert not set(recorded) & set(known)

    def test_few_bits_hurt_more_than_many(self, name: str, tiny: Tiny, simulator: Simulator) -> None:
        table = METRICS[name].measure(Probe(simulator, tiny.images), tiny.space.choices)
        worse = [table.get(n, c[0]) > table.get(n, c[-1]) for n, c in tiny.space.choices.items() if len(c) > 1]
        assert sum(worse) >= 0.9 * len(worse)  # estimates of a trace by few draws can fail

    def test_feature_extractors_are_measured_on_their_features(self, name: str) -> None:
        images = torch.randn(4, 3, 32, 32)
        model, inventory = analyse(make_tiny(num_classes=0), images[:1])
        with Simulator(model, inventory, calibrate(model, inventory, images)) as simulator:
            choices = {"blocks.0.mlp.fc1.weight": [Choice(bits=b, symmetric=True) for b in (3, 6)]}
            table = METRICS[name].measure(Probe(simulator, images, task=Task("features")), choices)
        low, high = (table.get("blocks.0.mlp.fc1.weight", c) for c in choices["blocks.0.mlp.fc1.weight"])
        assert low > high > 0


@torch.no_grad()
def test_measured_equals_a_whole_forward_pass(tiny: Tiny, simulator: Simulator) -> None:
    reference = tiny.model(tiny.images)
    table = METRICS["measured"].measure(Probe(simulator, tiny.images, batch_size=5), tiny.space.choices)
    for name in ("patch_embed.proj.weight", "blocks.1.attn.softmax", "blocks.0.attn.v", "head.input"):
        choice = tiny.space.choices[name][1]
        simulator.set(name, choice)
        want = float(output_error(reference, tiny.model(tiny.images), CLASSIFICATION).mean())
        simulator.set(name, FLOAT)
        assert table.get(name, choice) == pytest.approx(want, rel=1e-3, abs=1e-7)


def test_threads_that_share_a_simulator_give_the_errors_of_one(tiny: Tiny) -> None:
    calibration = calibrate(tiny.model, tiny.inventory, tiny.images, gradients=True)
    tables = []
    for n_threads in (1, 4):
        rounding = Compensating(calibration.moments)
        with threads_of_operators(n_threads), Simulator(tiny.model, tiny.inventory, calibration, rounding) as simulator:
            tables.append(METRICS["fisher_shrunk"].measure(Probe(simulator, tiny.images), tiny.space.choices))
    (one, several) = ([table.get(n, c) for n, row in tiny.space.choices.items() for c in row] for table in tables)
    assert several == pytest.approx(one, rel=1e-3)


def test_fisher_ranks_like_measured_where_errors_are_small(tiny: Tiny, simulator: Simulator) -> None:
    choices = {n: [c for c in row if c.bits >= 6] for n, row in tiny.space.choices.items()}
    tables = [METRICS[n].measure(Probe(simulator, tiny.images), choices) for n in NAMES]
    pairs = [(tables[0].get(n, c), tables[1].get(n, c)) for n, row in choices.items() for c in row]
    assert kendalltau(*zip(*pairs, strict=True)).statistic > 0.5


def test_first_order_sees_better_and_worse_around_a_quantized_point(tiny: Tiny, simulator: Simulator) -> None:
    base = tiny.space.uniform(5, 5)
    tables = [METRICS[m].measure(Probe(simulator, tiny.images, base=base), tiny.space.choices) for m in ("gradient", "measured")]
    pairs = [(tables[0].get(n, c), tables[1].get(n, c)) for n, row in tiny.space.choices.items() for c in row]
    assert min(p[1] for p in pairs) < 0
    assert kendalltau(*zip(*pairs, strict=True)).statistic > 0.3


def test_missing_entries_are_named() -> None:
    with pytest.raises(PmqError, match="no sensitivity of 'a' at 4 bits"):
        SensitivityTable("measured").get("a", Choice(bits=4))
    with pytest.raises(PmqError, match=r"fisher, .*measured"):
        METRICS["magic"]
