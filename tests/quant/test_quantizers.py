"""A conformance class that every quantizer and every estimator passes by adding a line, and properties of each."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pmq.core import Choice, PmqError
from pmq.core.choice import BY_TOKEN, FLOATS
from pmq.quant.estimators import ESTIMATORS
from pmq.quant.quantizers import QUANTIZERS, Affine, Codebook, Dynamic, Log, Palette, Power, Quantizer, Relative
from pmq.quant.quantizers.codebook import best_levels
from pmq.quant.weights import fit, from_rows, pack, quantize_weight, to_rows, unpack

BITS = (2, 3, 4, 5, 6, 7, 8)


def values(positive: bool, seed: int = 0, shape: tuple[int, ...] = (4, 400)) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return torch.softmax(3 * x, -1) if positive else x * torch.tensor([[0.1], [1.0], [10.0], [1.0]])


def dequantized(weight: Tensor, choice: Choice) -> Tensor:
    return quantize_weight(weight, choice).dequantize()


@pytest.mark.parametrize(
    ("cls", "symmetric", "positive"),
    [
        (Affine, False, False),
        (Affine, True, False),
        (Affine, False, True),
        (Log, False, True),
        (Power, False, True),
        (Power, False, False),
        (Codebook, False, False),
        (Palette, True, False),
    ],
)
class TestQuantizerConformance:
    def make(self, cls: type[Quantizer], x: Tensor, bits: int, symmetric: bool) -> Quantizer:
        return cls.fit(x, bits, symmetric, ESTIMATORS["minmax"])

    @pytest.mark.parametrize("bits", BITS)
    def test_has_at_most_two_to_the_bits_levels_a_scale(self, cls, symmetric, positive, bits) -> None:
        x = values(positive)
        y = self.make(cls, x, bits, symmetric)(torch.cat([x, 3 * x, torch.zeros(4, 1)], 1))
        assert all(len(row.unique()) <= 2**bits for row in y)

    @pytest.mark.parametrize("bits", BITS)
    def test_parameters_say_all(self, cls, symmetric, positive, bits) -> None:
        x = values(positive)
        q = self.make(cls, x, bits, symmetric)
        assert torch.equal(cls(q.parameters, bits)(x), q(x))

    @pytest.mark.parametrize("bits", (2, 4, 8))
    def test_an_error_that_weighs_more_becomes_smaller(self, cls, symmetric, positive, bits) -> None:
        x = values(positive)[:1]
        heavy = (x - x.amax()).abs() < 0.2 * (x.amax() - x.amin())
        plain, weighed = (
            (cls.fit(x, bits, symmetric, ESTIMATORS["fisher"], w)(x) - x).square()[heavy].mean()
            for w in (None, 1e-3 + 100.0 * heavy)
        )
        assert weighed <= plain

    @pytest.mark.parametrize("bits", BITS)
    def test_twice_changes_nothing(self, cls, symmetric, positive, bits) -> None:
        x = values(positive)
        q = self.make(cls, x, bits, symmetric)
        assert torch.equal(q(q(x)), q(x))

    @pytest.mark.parametrize("bits", BITS)
    def test_codes_are_packable_and_decode_to_the_same(self, cls, symmetric, positive, bits) -> None:
        x = values(positive)
        q = self.make(cls, x, bits, symmetric)
        codes = q.codes(x)
        assert int(codes.min()) >= 0
        assert int(codes.max()) < 2**bits
        torch.testing.assert_close(q.decode(codes), q(x), rtol=1e-6, atol=0)

    def test_leaves_its_input_alone_and_affine_and_log_leave_zero(self, cls, symmetric, positive) -> None:
        x = values(positive)
        before = x.clone()
        q = self.make(cls, x, 4, symmetric)
        q(x)
        assert torch.equal(x, before)
        if cls in (Affine, Log):
            assert float(q(torch.zeros(4, 3)).abs().max()) == 0

    @pytest.mark.parametrize("bits", BITS)
    def test_int8_integers_are_the_levels(self, cls, symmetric, positive, bits) -> None:
        x = values(positive)[:1]
        q = self.make(cls, x, bits, symmetric)
        q = cls({k: v.reshape(()) if v.numel() == 1 else v for k, v in q.parameters.items()}, bits)
        if q.int8_grid is None:
            assert cls in (Log, Palette, Power)
            return
        scale, offset = q.int8_grid
        integers = q.int8(torch.cat([3 * x, -3 * x]))
        assert integers.dtype == torch.int8
        torch.testing.assert_close((integers.float() + offset) * scale, q(torch.cat([3 * x, -3 * x])), rtol=1e-6, atol=0)

    def test_constant_and_zero_rows_stay_finite(self, cls, symmetric, positive) -> None:
        for value in (0.0, 0.3):
            x = torch.full((2, 5), value)
            y = self.make(cls, x, 8, symmetric)(x)
            assert bool(y.isfinite().all())
            torch.testing.assert_close(y, x, rtol=0.01, atol=0)

    def test_scalars_and_tensors_give_the_same(self, cls, symmetric, positive) -> None:
        x = values(positive)[1:2]
        rows = self.make(cls, x, 4, symmetric)
        flat = {k: v.reshape(()) if v.numel() == 1 else v for k, v in rows.parameters.items()}
        assert torch.equal(cls(flat, 4)(x), rows(x))


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_rows_of_zeros_stay_zero_in_a_palette(bits: int) -> None:
    choice = Choice(bits=bits, quantizer="palette", granularity="channel", symmetric=True)
    some = values(False) * torch.tensor([[1.0], [0.0], [1.0], [1e-30]])
    for weight in (torch.zeros(3, 5), some, torch.full((2, 1), 0.3)):
        quantized = quantize_weight(weight, choice)
        assert bool((quantized.quantizer.parameters["scale"] > 0).all())
        torch.testing.assert_close(quantized.dequantize()[weight == 0], weight[weight == 0], rtol=0, atol=1e-5)
        assert bool(quantized.dequantize().isfinite().all())
    torch.testing.assert_close(quantize_weight(torch.full((2, 1), 0.3), choice).dequantize(), torch.full((2, 1), 0.3))


def test_every_quantizer_is_under_conformance() -> None:
    mark = TestQuantizerConformance.pytestmark[0]
    assert {case[0].name for case in mark.args[1]} | {*BY_TOKEN, *FLOATS} == set(QUANTIZERS)


@pytest.mark.parametrize(("name", "kind"), [("half", torch.float16), ("bfloat16", torch.bfloat16)])
def test_sixteen_bit_floats_are_what_torch_rounds_to(name: str, kind: torch.dtype) -> None:
    weight = values(False)
    quantized = quantize_weight(weight, Choice(bits=16, quantizer=name))
    assert torch.equal(quantized.dequantize(), weight.to(kind).float())
    assert torch.equal(unpack(pack(quantized.codes, 16), 16, weight.numel()).reshape(quantized.codes.shape), quantized.codes)
    assert torch.equal(quantized.scaled(2.0).dequantize(), 2 * quantized.dequantize())
    most = QUANTIZERS[name]({}, 16)(torch.tensor([1e39, -1e39]))
    assert bool(most.isfinite().all())


@pytest.mark.parametrize("bits", BITS)
def test_dynamic_has_a_grid_for_each_token(bits: int) -> None:
    x = torch.randn(2, 5, 300, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1.0, 50.0, 0.0, 3.0])[:, None]
    q = Dynamic.fit(x.reshape(1, -1), bits, False, ESTIMATORS["minmax"])
    y = q(x)
    assert all(len(token.unique()) <= 2**bits for token in y.flatten(0, 1))
    step = (x.amax(-1).clamp(min=0) - x.amin(-1).clamp(max=0)) / (2**bits - 1)
    # half a step, and half of one more at the ends, which the rounded zero point may move
    assert bool(((y - x).abs().amax(-1) <= 1.001 * step).all())
    assert torch.equal(y[0], q(x[0]))
    codes = q.codes(x)
    assert 0 <= int(codes.min()) <= int(codes.max()) < 2**bits
    with pytest.raises(NotImplementedError, match="not stored"):
        q.decode(codes)


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_relative_levels_grow_with_the_token(bits: int) -> None:
    x = torch.randn(2, 5, 300, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1.0, 50.0, 0.0, 3.0])[:, None]
    largest = x.abs().amax(-1, keepdim=True)
    shares = x[:, :3] / largest[:, :3]
    q = Relative.fit(shares.reshape(1, -1), bits, False, ESTIMATORS["minmax"])
    before, y = x.clone(), q(x)
    assert torch.equal(x, before)
    assert bool(((q.levels >= 0) & (q.levels <= 254) & (q.levels == q.levels.round())).all())
    levels = (q.levels - 127) / 127
    torch.testing.assert_close(y, levels[q.codes(x)] * largest, rtol=1e-6, atol=1e-30)
    assert float(y[:, 3].abs().max()) < 1e-30  # a token of zeros
    torch.testing.assert_close(q(8 * x), 8 * y, rtol=1e-6, atol=1e-30)
    torch.testing.assert_close(q(x[1, 2:3, :]), y[1, 2:3])
    nearest = (shares[..., None] - levels).abs().min(-1).values
    assert float(((y[:, :3] / largest[:, :3] - shares).abs() - nearest).max()) <= 1.001 * 2 / 4096
    with pytest.raises(NotImplementedError, match="not stored"):
        q.decode(q.codes(x))


def test_relative_levels_beat_static_ones_where_tokens_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 300, generator=generator) * (0.2 + 3 * torch.rand(64, 1, generator=generator))
    relative = Relative.fit((x / x.abs().amax(-1, keepdim=True)).reshape(1, -1), 4, False, ESTIMATORS["mse"])
    static = Codebook.fit(x.reshape(1, -1), 4, False, ESTIMATORS["mse"])
    assert float((relative(x) - x).square().mean()) < 0.8 * float((static(x) - x).square().mean())


@pytest.mark.parametrize("root", [1, 2, 4])
def test_log_rounds_in_the_logarithm(root: int) -> None:
    q = Log.from_range(torch.tensor(0.0), torch.tensor(1.0), 6, root)
    x = torch.logspace(-3, 0, 1000)
    torch.testing.assert_close(q(x), torch.exp2(torch.round(root * torch.log2(x)) / root))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_best_levels_are_the_best_of_all(count: int) -> None:
    x = torch.randn(11, generator=torch.Generator().manual_seed(count)).sort().values
    w = torch.rand(11, generator=torch.Generator().manual_seed(count))

    def cost(cuts: tuple[int, ...]) -> float:
        edges = [0, *cuts, 11]
        parts = [(x[a:b], w[a:b]) for a, b in itertools.pairwise(edges)]
        return float(sum((v * (p - (p * v).sum() / v.sum()) ** 2).sum() for p, v in parts))

    best = min(cost(cuts) for cuts in itertools.combinations(range(1, 11), count - 1))
    levels = best_levels(x, w, count)
    nearest = levels[(x[:, None] - levels).abs().argmin(1)]
    assert float((w * (nearest - x) ** 2).sum()) == pytest.approx(best, rel=1e-4)


def test_codebook_takes_the_nearest_level_on_a_grid_of_eight_bits() -> None:
    x = torch.randn(1, 5000, generator=torch.Generator().manual_seed(1))
    q = Codebook.fit(x, 4, False, ESTIMATORS["mse"])
    levels = (q.levels - q.zero_point) * q.scale
    assert bool(((q.levels >= 0) & (q.levels <= 255) & (q.levels == q.levels.round())).all())
    cell = float(levels[-1] - levels[0]) / 4096
    nearest = (x[..., None] - levels).abs().min(-1).values
    assert float(((q(x) - x).abs() - nearest).max()) <= 1.001 * cell


def test_codebook_beats_even_levels_on_gelu_outputs() -> None:
    x = torch.nn.functional.gelu(2 * torch.randn(1, 20000, generator=torch.Generator().manual_seed(0)))
    errors = {c: float((c.fit(x, 4, False, ESTIMATORS["mse"])(x) - x).square().mean()) for c in (Affine, Power, Codebook)}
    assert errors[Codebook] < 0.8 * errors[Power] < 0.64 * errors[Affine]


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
class TestEstimatorConformance:
    def ranges(self, name: str, x: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
        return ESTIMATORS[name].estimate(x, lambda lo, hi: Affine.from_range(lo, hi, bits, symmetric), symmetric)

    @pytest.mark.parametrize("symmetric", [True, False])
    def test_each_row_has_its_own_range_within_its_samples(self, name, symmetric) -> None:
        x = values(False)
        low, high = self.ranges(name, x, 4, symmetric)
        assert low.shape == high.shape == (4, 1)
        assert bool((low >= x.amin(1, keepdim=True)).all())
        assert bool((high <= x.amax(1, keepdim=True)).all())
        alone, _ = self.ranges(name, x[2:3], 4, symmetric)
        torch.testing.assert_close(low[2:3], alone)

    def test_refuses_what_is_not_finite(self, name) -> None:
        with pytest.raises(PmqError, match="finite"):
            self.ranges(name, torch.tensor([[1.0, torch.nan]]), 4, False)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), symmetric=st.booleans(), name=st.sampled_from(["mse", "minmax"]))
def test_error_falls_as_bits_rise(seed: int, symmetric: bool, name: str) -> None:
    x = values(False, seed)
    choices = [Choice(bits=b, granularity="channel", symmetric=symmetric, estimator=name) for b in BITS]
    errors = [float((dequantized(x, c) - x).square().sum()) for c in choices]
    assert all(low > high for low, high in itertools.pairwise(errors))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_mse_is_never_worse_than_minmax(bits: int, symmetric: bool) -> None:
    x = values(False) ** 3
    mse, minmax = (
        dequantized(x, Choice(bits=bits, granularity="channel", symmetric=symmetric, estimator=e)) - x for e in ("mse", "minmax")
    )
    assert bool((mse.square().sum(1) <= minmax.square().sum(1) * (1 + 1e-5)).all())


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_weights_round_trip_through_rows(granularity: str) -> None:
    weight = torch.randn(6, 3, 4, 4)
    choice = Choice(bits=4, granularity=granularity, group_size=10 if granularity == "group" else None, symmetric=True)
    rows = to_rows(weight, choice)
    assert len(rows) == choice.scales(tuple(weight.shape))
    assert torch.equal(from_rows(rows, weight.shape), weight)
    finer = dequantized(weight, choice)
    assert finer.shape == weight.shape


def test_finer_granularity_means_less_error() -> None:
    weight = values(False)
    errors = [
        float((dequantized(weight, Choice(bits=4, granularity=g, group_size=s, symmetric=True)) - weight).square().sum())
        for g, s in (("tensor", None), ("channel", None), ("group", 20))
    ]
    assert errors[0] > errors[1] > errors[2]


@settings(max_examples=30, deadline=None)
@given(bits=st.sampled_from(BITS), count=st.integers(1, 100), seed=st.integers(0, 99))
def test_packing_is_dense_and_exact(bits: int, count: int, seed: int) -> None:
    codes = torch.randint(2**bits, (count,), generator=torch.Generator().manual_seed(seed))
    packed = pack(codes, bits)
    assert len(packed) == -(-count * bits // 8)
    assert torch.equal(unpack(packed, bits, count), codes)


def test_unknown_names_are_told() -> None:
    with pytest.raises(PmqError, match="affine, bfloat16, codebook, dynamic, half, log, palette, power"):
        QUANTIZERS["magic"]
    with pytest.raises(PmqError, match="minmax, mse, percentile"):
        ESTIMATORS["magic"]
    assert isinstance(fit(values(False), Choice(bits=4, symmetric=True)), Affine)
