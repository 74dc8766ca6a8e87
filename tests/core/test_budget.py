import pytest

from pmq.core import Budget, Limits, PmqError


class Costs:
    fp32_bytes = 1000.0

    def uniform(self, weight_bits: float, activation_bits: float) -> tuple[float, float]:
        return 100 * weight_bits, weight_bits * activation_bits


@pytest.mark.parametrize(
    ("text", "size", "ops"),
    [
        ("4bit", 400, 16),
        ("4.5bit", 450, 20.25),
        ("W4A8", 400, 32),
        ("0.15x", 150, None),
        ("size=3MB", 3e6, None),
        ("size=3.5kB", 3500, None),
        ("bitops=4G", None, 4e9),
        (" size=300, bitops=10 ", 300, 10),
        ("4bit,size=300", 300, 16),
        ("size=500,4bit,0.1x", 100, 16),
    ],
)
def test_resolves(text: str, size: float | None, ops: float | None) -> None:
    assert Budget.parse(text).resolve(Costs()) == Limits(size, ops)


@pytest.mark.parametrize(
    "text", ["", "four", "4bit,", "1bit", "9bit", "w4", "size=3XB", "size=0MB", "0x", "latency=3h", "latency=0ms", "-4bit"]
)
def test_refuses_with_the_grammar(text: str) -> None:
    with pytest.raises(PmqError) as error:
        Budget.parse(text)
    assert "budget" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "ms"), [("latency=12ms", 12.0), ("latency=800us", 0.8), ("latency=0.5s,latency=3", 3.0)])
def test_milliseconds(text: str, ms: float) -> None:
    limits = Budget.parse(f"4bit,{text}").resolve(Costs())
    assert limits == Limits(400, 16, ms)
    assert limits.allow(400, 16, ms)
    assert not limits.allow(400, 16, 1.01 * ms)


def test_limits_allow_equality() -> None:
    assert Limits(10, 20).allow(10, 20)
    assert not Limits(10, 20).allow(10, 21)
    assert Limits().allow(1e30, 1e30)
