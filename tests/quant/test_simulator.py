import pytest
import torch
from torch import nn

from pmq.core import FLOAT, Choice, PmqError
from pmq.graph import analyse
from pmq.quant import Calibration, Instrument, Simulator, calibrate, quantize_weight
from pmq.quant.quantizers import Affine
from tests.conftest import Tiny, make_tiny


@torch.no_grad()
def test_fp32_changes_nothing_and_closing_restores_the_model(tiny: Tiny) -> None:
    before = tiny.model(tiny.images)
    modules = {n: type(m) for n, m in tiny.model.named_modules()}
    with Simulator(tiny.model, tiny.inventory, tiny.calibration) as simulator:
        inside = tiny.model(tiny.images)  # where attention is written out
        torch.testing.assert_close(inside, before, rtol=1e-5, atol=1e-6)
        simulator.apply(tiny.space.uniform(4, 4))
        assert not torch.allclose(tiny.model(tiny.images), before)
        simulator.apply({})
        assert torch.equal(tiny.model(tiny.images), inside)
        simulator.apply(tiny.space.uniform(3, 3))
    assert {n: type(m) for n, m in tiny.model.named_modules()} == modules
    assert torch.equal(tiny.model(tiny.images), before)


@torch.no_grad()
def test_each_component_alone_changes_the_output(tiny: Tiny, simulator: Simulator) -> None:
    reference = tiny.model(tiny.images)
    for name, choices in tiny.space.choices.items():
        simulator.set(name, choices[0])
        assert not torch.equal(tiny.model(tiny.images), reference), name
        simulator.set(name, FLOAT)
        torch.testing.assert_close(tiny.model(tiny.images), reference)


@torch.no_grad()
def test_simulates_what_hand_written_attention_computes(tiny: Tiny, simulator: Simulator) -> None:
    """Block 0's attention at W4A4 against the same written out with quantizers in place."""
    assignment = {n: c for n, c in tiny.space.uniform(4, 4).items() if n.startswith("blocks.0.attn")}
    simulator.apply(assignment)
    x = torch.randn(3, 17, 32)
    got = tiny.model.run(x, 1, 2)
    block = tiny.module.blocks[0]

    def q(name: str, value: torch.Tensor) -> torch.Tensor:
        full = f"blocks.0.attn.{name}"
        fitted = tiny.calibration.quantizer(full, assignment[full])
        heads = any(p.numel() > 1 for key, p in fitted.parameters.items() if key not in fitted.shared)
        rows = value.movedim(-3, 0).flatten(1) if heads else value.reshape(1, -1)
        back = fitted(rows)
        return back.reshape(value.movedim(-3, 0).shape).movedim(0, -3) if len(rows) > 1 else back.reshape(value.shape)

    weights = {n: simulator.original_weight(f"blocks.0.attn.{n}.weight") for n in ("qkv", "proj")}
    weights = {n: quantize_weight(w.detach(), assignment[f"blocks.0.attn.{n}.weight"]).dequantize() for n, w in weights.items()}
    attention = block.attn
    qkv = nn.functional.linear(q("qkv.input", block.norm1(x)), weights["qkv"], attention.qkv.bias)
    heads = [t.unflatten(-1, (2, 16)).transpose(1, 2) for t in qkv.chunk(3, -1)]
    query, key, value = (q(n, t) for n, t in zip("qkv", heads, strict=True))
    softmax = q("softmax", (query * attention.scale @ key.transpose(-2, -1)).softmax(-1))
    out = (softmax @ value).transpose(1, 2).flatten(2)
    attended = x + nn.functional.linear(q("proj.input", out), weights["proj"], attention.proj.bias)
    want = attended + block.mlp(block.norm2(attended))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_normalised_queries_and_keys_are_quantized_after_their_norm() -> None:
    x = torch.randn(4, 3, 32, 32)
    model, inventory = analyse(make_tiny(qk_norm=True), x[:1])
    calibration = calibrate(model, inventory, x)
    seen = {}
    with Instrument(model, inventory) as instrument:
        instrument.set_activation("blocks.0.attn.q", lambda t: seen.setdefault("q", t))
        model(x)
    assert seen["q"].shape == (4, 2, 17, 16)
    values, _ = calibration.samples["blocks.0.attn.q"].compute(heads=True)
    torch.testing.assert_close(values.amin(1), seen["q"].amin((0, 2, 3)))
    torch.testing.assert_close(values.amax(1), seen["q"].amax((0, 2, 3)))


def test_weights_are_quantized_once(tiny: Tiny, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    rounding = simulator.rounding
    monkeypatch.setattr(simulator, "rounding", lambda n, w, c, k: calls.append(c) or rounding(n, w, c, k))
    for _ in range(3):
        for bits in (4, 8):
            simulator.apply(tiny.space.uniform(bits, bits))
    assert len(calls) == 2 * sum(c.role == "weight" for c in tiny.inventory)


def test_ranges_must_come_from_somewhere(tiny: Tiny) -> None:
    with pytest.raises(PmqError, match="was not calibrated"):
        Calibration().quantizer("blocks.0.attn.q", Choice(bits=4))
    known = Calibration(known={"x": {"scale": [0.5], "zero_point": [3.0]}}).quantizer("x", Choice(bits=8))
    assert isinstance(known, Affine)


def test_calibration_depends_on_images_and_seed_alone(tiny: Tiny) -> None:
    again = calibrate(tiny.model, tiny.inventory, tiny.images)
    choice = Choice(bits=4)
    for component in tiny.inventory:
        if component.role == "activation":
            one, other = (c.quantizer(component.name, choice).parameters for c in (again, tiny.calibration))
            assert one == other
    assert again.info == tiny.calibration.info
    assert calibrate(tiny.model, tiny.inventory, tiny.images[:6]).info != again.info


def test_activations_that_are_not_finite_stop(tiny: Tiny) -> None:
    with pytest.raises(PmqError, match="not finite"):
        calibrate(tiny.model, tiny.inventory, torch.full((2, 3, 32, 32), torch.nan))


def test_what_a_width_removes_is_zero_until_it_is_kept_again(tiny: Tiny) -> None:
    from pmq.core.choice import WidthChoice
    from pmq.core.pruning import PrunedUnit
    from pmq.quant import MaskedWeight

    kept = torch.arange(64)
    name, half = "blocks.0.mlp.fc2.weight", Choice(bits=4, granularity="channel", symmetric=True)
    weight = tiny.module.blocks[0].mlp.fc2.weight.detach()
    unit = WidthChoice(unit=PrunedUnit.of("hidden", 128, range(64)))
    whole = WidthChoice(unit=PrunedUnit.of("hidden", 128, range(128)))

    def masker(unit: str, choice: WidthChoice) -> dict[str, MaskedWeight]:
        return {name: MaskedWeight(choice.label, 2 * weight[:, kept], columns=kept)}

    with Simulator(tiny.model, tiny.inventory, tiny.calibration, masker=masker) as simulator:
        before = simulator.run(tiny.images)
        layer = simulator.layer(name)
        simulator.apply({"blocks.0.mlp": unit})
        assert torch.equal(layer.weight[:, :64], 2 * weight[:, :64])
        assert not layer.weight[:, 64:].any()
        simulator.apply({"blocks.0.mlp": unit, name: half})
        assert not layer.weight[:, 64:].any()
        assert len(layer.weight[0].unique()) <= 17
        cut = simulator.run(tiny.images)
        simulator.apply({name: half})  # bits alone: the unit is whole again
        assert layer.weight[:, 64:].any()
        assert not torch.equal(cut, simulator.run(tiny.images))
        simulator.apply({"blocks.0.mlp": unit})
        simulator.set("blocks.0.mlp", whole)
        assert torch.equal(simulator.run(tiny.images), before)
