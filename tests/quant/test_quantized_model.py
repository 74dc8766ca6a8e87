"""What a recipe makes of a model, written to tensors and read back."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from pmq.core import Choice, PmqError
from pmq.core.choice import ComponentChoice
from pmq.core.description import check_tensors, describe_components
from pmq.core.recipe import RECIPES
from pmq.core.task import Task
from pmq.core.tensors import TensorFile
from pmq.graph import analyse
from pmq.optimize import Space, read_space
from pmq.quant import Prepared, build_quantized_model, prepare, quantize, restore
from pmq.quant.divergence import kl_divergence
from tests.conftest import Tiny, make_captured, make_tiny
from tests.quant.test_transforms import make


@pytest.fixture(scope="module", params=sorted(RECIPES))
def prepared(request: pytest.FixtureRequest) -> Prepared:
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return prepare(*analyse(make_tiny(), images[:1]), images, RECIPES[request.param])


def uniform(prepared: Prepared, weights: int, activations: int) -> dict[str, Choice]:
    return Space(read_space("default"), prepared.inventory, prepared.recipe.estimator).uniform(weights, activations)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@torch.no_grad()
def test_a_component_has_at_most_two_to_the_bits_values_a_scale(prepared: Prepared, bits: int) -> None:
    """Counted in the model that is run, at every component; the image has its 8 bits."""
    assignment = uniform(prepared, bits, bits)
    simulator = build_quantized_model(copy.deepcopy(prepared.model), prepared.inventory, quantize(prepared, assignment))
    counted = set()
    for component in prepared.inventory:
        if component.role == "weight":
            rows = simulator.original_weight(component.name).flatten(1)
            assert max(len(row.unique()) for row in rows) <= 2**bits, component.name
            counted.add(component.name)
            continue
        quantizer = simulator.quantizer(component, assignment[component.name])

        def count(x, name=component.name, q=quantizer):
            y = q(x)
            levels = max(len(row.unique()) for row in simulator.by_head(name, y))
            assert levels <= 2 ** assignment[name].bits, name
            counted.add(name)
            return y

        simulator.set_activation(component.name, count)
    simulator.model(prepared.images)
    assert counted == set(prepared.inventory.names)


@torch.no_grad()
def test_tensors_compute_what_was_simulated(prepared: Prepared) -> None:
    assignment = uniform(prepared, 4, 6) | {"blocks.0.mlp.fc1.weight": Choice(bits=32, quantizer="none")}
    quantized = quantize(prepared, assignment)
    assert torch.equal(prepared.model(prepared.images), prepared.model(prepared.images))
    models = [copy.deepcopy(prepared.model), make_captured()]
    outputs = [build_quantized_model(m, prepared.inventory, quantized).model(prepared.images) for m in models]
    assert torch.equal(outputs[0], outputs[1])
    if not prepared.recipe.sequential:
        with prepared.simulator() as simulator:
            simulator.apply(assignment)
            torch.testing.assert_close(simulator.model(prepared.images), outputs[0], rtol=1e-5, atol=1e-5)
    held = sum(a.nbytes for n, a in quantized.tensors.arrays().items() if n.endswith(".codes"))
    wanted = sum(-(-c.numel * 4 // 8) for c in prepared.inventory if c.role == "weight" and "blocks.0.mlp.fc1" not in c.name)
    assert held == wanted


@torch.no_grad()
def test_quantizing_leaves_the_prepared_model_alone(prepared: Prepared) -> None:
    before = {n: p.clone() for n, p in prepared.model.named_parameters()}
    quantize(prepared, uniform(prepared, 3, 3))
    assert all(torch.equal(p, before[n]) for n, p in prepared.model.named_parameters())


@torch.no_grad()
def test_better_recipes_are_better() -> None:
    """On images none of them has seen."""
    images = torch.randn(200, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    wanted, errors = make_tiny()(images), {}
    for name in ("minmax", "mse", "fast", "best"):
        model, inventory = analyse(make_tiny(), images[:1])
        calibration = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(6))
        prepared = prepare(model, inventory, calibration, RECIPES[name])
        found = build_quantized_model(copy.deepcopy(model), prepared.inventory, quantize(prepared, uniform(prepared, 3, 4))).model
        errors[name] = float(kl_divergence(wanted, found(images)).mean())
    assert errors["best"] < errors["minmax"]
    assert errors["fast"] < errors["minmax"]


@pytest.mark.parametrize("name", ["no bias", "normed", "distilled", "swin", "headless", "constant channels"])
@torch.no_grad()
def test_every_family_can_be_carried_out(name: str) -> None:
    module, images = make(name)
    wanted = module(images)
    (model, inventory), (fresh, _) = analyse(module, images[:1]), analyse(make(name)[0], images[:1])
    prepared = prepare(
        model, inventory, images, RECIPES["best"], task=Task("classification" if name != "headless" else "features")
    )
    quantized = quantize(prepared, uniform(prepared, 8, 8))
    output = build_quantized_model(fresh, inventory, quantized).model(images)
    assert float((output - wanted).norm() / wanted.norm()) < 0.1


@torch.no_grad()
def test_biases_make_mean_outputs_those_of_fp32(tiny: Tiny) -> None:
    model = make_captured()
    prepared = prepare(model, tiny.inventory, tiny.images, RECIPES["best"])
    quantized = quantize(prepared, uniform(prepared, 4, 4))
    found = build_quantized_model(copy.deepcopy(model), tiny.inventory, quantized).model
    plain = quantize(Prepared(model, tiny.inventory, RECIPES["fast"], prepared.calibration, tiny.images), uniform(prepared, 4, 4))
    other = build_quantized_model(copy.deepcopy(model), tiny.inventory, plain).model
    means = [m(tiny.images).mean(0) for m in (model, found, other)]
    assert float((means[1] - means[0]).norm()) < 0.5 * float((means[2] - means[0]).norm())


@torch.no_grad()
def test_free_levels_of_weights_are_bytes_that_are_checked(tiny: Tiny) -> None:
    prepared = prepare(make_captured(), tiny.inventory, tiny.images, RECIPES["fast"])
    assignment = uniform(prepared, 3, 8)
    quantized = quantize(prepared, assignment)
    arrays, name = quantized.tensors.arrays(), "blocks.0.attn.qkv.weight"
    assert {key.removeprefix(f"{name}.") for key in arrays if key.startswith(name)} == {"codes", "scale", "levels"}
    assert (arrays[f"{name}.levels"].dtype, arrays[f"{name}.levels"].size) == (np.uint8, 8)
    values = restore(make_captured(), quantized)[name].dequantize()
    integers = values / torch.from_numpy(arrays[f"{name}.scale"])[:, None] + 127
    assert set(integers.round().int().unique().tolist()) <= set(arrays[f"{name}.levels"].tolist())

    choices = {n: ComponentChoice(**c.model_dump()) for n, c in assignment.items()}
    described = describe_components(tiny.inventory)
    check_tensors(choices, described, arrays, "x")
    wrong = {"does not rise": arrays[f"{name}.levels"][::-1], "uint8": arrays[f"{name}.levels"].astype(np.float32)}
    for told, levels in wrong.items():
        with pytest.raises(PmqError, match=told):
            check_tensors(choices, described, arrays | {f"{name}.levels": levels}, "x")


def test_tensors_of_another_model_are_refused(tiny: Tiny) -> None:
    prepared = prepare(make_captured(), tiny.inventory, tiny.images, RECIPES["mse"])
    quantized = quantize(prepared, uniform(prepared, 4, 4))
    arrays = quantized.tensors.arrays()
    for name, told in (("blocks.0.norm1.weight", "have no"), ("blocks.1.mlp.fc2.weight.codes", "have no")):
        less = TensorFile.of({k: v for k, v in arrays.items() if k != name})
        with pytest.raises(PmqError, match=told):
            build_quantized_model(make_captured(), tiny.inventory, type(quantized)(**{**quantized.__dict__, "tensors": less}))


@torch.no_grad()
@pytest.mark.parametrize("recipe", ["mse", "best"])
def test_scales_of_tokens_need_nothing_from_the_allocation(tiny: Tiny, recipe: str) -> None:
    prepared = prepare(make_captured(), tiny.inventory, tiny.images, RECIPES[recipe])
    dynamic = Choice(bits=8, quantizer="dynamic", granularity="token")
    assignment = {n: dynamic if tiny.inventory[n].kind == "norm" else c for n, c in uniform(prepared, 8, 8).items()}
    quantized = quantize(prepared, assignment)
    assert quantized.parameters["blocks.0.mlp.fc1.input"] == {}
    output, wanted = (
        build_quantized_model(make_captured(), tiny.inventory, quantized).model(tiny.images),
        make_tiny()(tiny.images),
    )
    assert float((output - wanted).norm() / wanted.norm()) < 0.1
