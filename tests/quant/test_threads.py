"""Threads for operators on small tensors."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
import torch

from pmq.cli.signals import raise_on_stop
from pmq.core.choice import Choice
from pmq.core.errors import Interrupted
from pmq.core.memory_limit import limited_memory
from pmq.quant.compensation import Compensator
from pmq.quant.samples import Samples
from pmq.quant.threads import SMALL, in_threads, threads_by_size, threads_of_operators
from pmq.quant.weights import fit


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    with threads_of_operators(4):
        yield


def threads_at(_: object) -> int:
    return torch.get_num_threads()


def test_items_share_the_threads() -> None:
    assert in_threads(threads_at, range(2)) == [2, 2]
    assert in_threads(threads_at, range(9)) == [1] * 9
    assert torch.get_num_threads() == 4


def test_one_item_has_all_threads() -> None:
    assert in_threads(threads_at, range(1)) == [4]


def test_items_come_one_at_a_time_where_memory_is_limited() -> None:
    with limited_memory(1e12):
        assert in_threads(threads_at, range(9)) == [4] * 9


def test_items_come_one_at_a_time_on_another_device() -> None:
    assert in_threads(threads_at, range(9), torch.device("meta")) == [4] * 9


def test_results_are_in_the_order_of_the_items() -> None:
    assert in_threads(lambda i: i * i, range(50)) == [i * i for i in range(50)]


def test_errors_are_raised_and_the_threads_restored() -> None:
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda i: 1 // i, [2, 1, 0])
    assert torch.get_num_threads() == 4


def test_items_that_have_begun_are_finished_after_two_signals() -> None:
    begun, finished = [], []

    def interrupt_twice(item: int) -> None:
        begun.append(item)
        for _ in range(2 if item == 0 else 0):
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        finished.append(item)

    with pytest.raises(Interrupted), raise_on_stop():
        in_threads(interrupt_twice, range(50))
    assert 0 < len(begun) < 50
    assert sorted(begun) == sorted(finished)


def test_a_thread_that_starts_later_has_the_threads_of_before() -> None:
    in_threads(threads_at, range(3))
    with threads_by_size(1):
        pass
    assert in_threads(threads_at, range(4)) == [1] * 4
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize(("n_values", "count"), [(SMALL - 1, 1), (SMALL, 4)])
def test_threads_follow_the_size_of_tensors_inside_and_outside(n_values: int, count: int) -> None:
    def threads_inside(_: object) -> int:
        with threads_by_size(n_values):
            return torch.get_num_threads()

    assert in_threads(threads_inside, range(9)) == [count] * 9
    assert threads_inside(0) == count


@torch.no_grad()
def test_quantizers_do_not_depend_on_where_they_are_fitted() -> None:
    generator = torch.Generator().manual_seed(5)
    samples = Samples()
    for _ in range(4):  # of three heads, which makes a few values more than one thread sums
        samples.add(torch.randn(3, 4000, generator=generator), 0.25, generator)
        samples.weigh(torch.rand(3, 4000, generator=generator))
    weight, rows = torch.randn(800, 96, generator=generator), torch.randn(400, 96, generator=generator)

    def fitted(_: object) -> list[torch.Tensor]:
        values, weights = samples.compute()
        assert weights is not None
        quantizer = fit(values, Choice(bits=4, estimator="fisher"), weights)
        quantized = Compensator(rows.T @ rows).quantize(weight, Choice(bits=3, symmetric=True))
        return [weights, *quantizer.parameters.values(), quantized.codes]

    outside = fitted(0)
    for inside in in_threads(fitted, range(4)):
        assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))
