"""Integer products against fake quantization."""

import pytest
import torch
from torch import Tensor, nn

from pmq.core import Choice
from pmq.quant import Simulator, quantize_weight
from pmq.quant.integer import IntegerWeight, computes_exactly, integer_product
from pmq.quant.quantizers import Affine, Codebook, Relative
from pmq.quant.quantizers.base import Quantizer
from tests.conftest import Tiny

pytestmark = pytest.mark.skipif(not computes_exactly("cpu"), reason="this processor does not multiply int8 exactly")


def inputs() -> list[Quantizer]:
    low, high = torch.tensor(-0.4), torch.tensor(5.0)
    table = {"levels": torch.tensor([0.0, 3.0, 9.0, 255.0]), "scale": torch.tensor(0.02), "zero_point": torch.tensor(9.0)}
    return [
        *(Affine.from_range(low, high, bits, False) for bits in (2, 4, 8)),
        Affine.from_range(torch.tensor(-9.0), torch.tensor(0.0), 8, False),
        Affine.from_range(low, high, 8, True),
        Codebook(table, 2),
        Relative({"levels": torch.tensor([0.0, 90.0, 127.0, 254.0])}, 2),
    ]


@pytest.mark.parametrize("quantizer", inputs())
@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("levels", ["affine", "palette"])
@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 1, 40)])
def test_equals_the_product_of_fake_quantized_values(
    quantizer: Quantizer, bits: int, granularity: str, levels: str, bias: Tensor | None
) -> None:
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(40, 96, generator=generator)
    quantized = quantize_weight(weight, Choice(bits=bits, quantizer=levels, granularity=granularity, symmetric=True))
    x = 3 * torch.randn(2, 50, 96, generator=generator)
    integers = IntegerWeight.of(quantized)
    assert integers is not None
    got = integer_product(integers, quantizer)(x, bias)
    want = nn.functional.linear(quantizer(x).double(), quantized.dequantize().double(), None if bias is None else bias.double())
    magnitude = quantizer(x).abs().double() @ quantized.dequantize().abs().double().T + 128 * quantized.dequantize().abs().max()
    assert float(((got - want).abs() / magnitude).max()) < 1e-5


def test_what_is_no_product_of_integers_is_left_to_floats(tiny: Tiny) -> None:
    weight = torch.randn(16, 32)
    for choice in (Choice(bits=8, granularity="channel"), Choice(bits=8, granularity="group", group_size=8, symmetric=True)):
        assert IntegerWeight.of(quantize_weight(weight, choice)) is None
    assert (
        IntegerWeight.of(quantize_weight(weight[..., None, None], Choice(bits=8, granularity="channel", symmetric=True))) is None
    )
    with Simulator(tiny.model, tiny.inventory, tiny.calibration) as simulator:
        simulator.apply(tiny.space.uniform(4, 8))  # GELU output by powers
        assert simulator.layer("blocks.0.mlp.fc2.weight").product is None
        assert simulator.layer("blocks.0.mlp.fc1.weight").product is not None
        simulator.set("blocks.0.mlp.fc1.input", Choice(bits=4, quantizer="relative", granularity="token"))
        assert simulator.layer("blocks.0.mlp.fc1.weight").product is not None


@torch.no_grad()
@pytest.mark.parametrize("bits", [4, 8])
def test_a_whole_layer_is_the_same_with_and_without(tiny: Tiny, bits: int) -> None:
    x = torch.randn(3, 17, 32)
    outputs = []
    for integers in (False, True):
        with Simulator(tiny.model, tiny.inventory, tiny.calibration, integers=integers) as simulator:
            simulator.apply(tiny.space.uniform(bits, bits))
            layer = simulator.layer("blocks.0.mlp.fc1.weight")
            assert (layer.product is not None) == integers
            outputs.append(layer(x))
            simulator.apply({})
            assert layer.product is None
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inputs", [1, 2, 3, 7])
def test_products_of_few_inputs_are_exact_or_left_to_floats(inputs: int) -> None:
    generator = torch.Generator().manual_seed(inputs)
    choice = Choice(bits=8, granularity="channel", symmetric=True)
    quantized = quantize_weight(torch.randn(3, inputs, generator=generator), choice)
    quantizer = Affine.from_range(torch.tensor(-0.4), torch.tensor(5.0), 8, False)
    x = 3 * torch.randn(2, 50, inputs, generator=generator)
    integers = IntegerWeight.of(quantized)
    assert integers is not None or inputs == 1
    if integers is not None:
        want = nn.functional.linear(quantizer(x), quantized.dequantize())
        torch.testing.assert_close(integer_product(integers, quantizer)(x, None), want, rtol=1e-4, atol=1e-4)
