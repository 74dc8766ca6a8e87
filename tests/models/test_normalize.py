"""Modules as users have them become plain copies, and are left as they were."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import pmq
from pmq.core import PmqError
from pmq.models.normalize import adopt, check_one_device
from pmq.models.output_selection import pick_output
from pmq.models.prepared import with_output
from pmq.models.weights import weights_sha256
from tests.conftest import make_tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch.nn.utils.weight_norm, which users have
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
Make = Callable[[], nn.Module]


def changed(change: Callable[[Any], object]) -> nn.Module:
    model = make_tiny()
    change(model)
    return model.eval()


def in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return make_tiny()


def first_layer(model: Any) -> nn.Module:
    layer: nn.Module = model.blocks[0].mlp.fc1
    return layer


#: what wraps a model whose weights stay what they are, and what is said of it
WRAPPED = {
    "compiled": (lambda: torch.compile(make_tiny()), "without OptimizedModule"),
    "part compiled": (lambda: changed(lambda m: m.blocks.__setitem__(0, torch.compile(m.blocks[0]))), "without OptimizedModule"),
    "compiled in place": (lambda: changed(lambda m: m.compile()), "not compiled"),
    "data parallel": (lambda: nn.DataParallel(make_tiny()), "without DataParallel"),
    "checkpointing": (lambda: changed(lambda m: m.set_grad_checkpointing(True)), "gradient checkpointing is off"),
    "inference mode": (in_inference_mode, ""),
    "hooks": (lambda: changed(lambda m: m.blocks[0].register_forward_hook(lambda *_: None)), "without its hooks (1)"),
    "frozen": (lambda: changed(lambda m: m.requires_grad_(False)), ""),
    "training": (lambda: make_tiny().train(), ""),
    "double": (lambda: make_tiny().double(), "float64 converted to FP32"),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_model_is_the_plain_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, told = WRAPPED[name]
    plain, adopted = make_tiny(), adopt(make(), IMAGES[:1])
    assert told in capsys.readouterr().err
    assert type(adopted) is type(plain)
    assert weights_sha256(adopted) == weights_sha256(plain)
    assert not any(module.training for module in adopted.modules())
    output = adopted(IMAGES)
    assert torch.equal(output, plain(IMAGES))
    gradients = torch.autograd.grad(output.sum(), list(adopted.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: weight_norm(first_layer(m)), "WeightNorm is merged"),
        (lambda m: spectral_norm(first_layer(m)), "SpectralNorm is merged"),
        (lambda m: prune.l1_unstructured(first_layer(m), "weight", 0.5), "prune are merged"),
        (lambda m: parametrizations.weight_norm(first_layer(m)), "parametrizations (_WeightNorm) are merged"),
        (lambda m: parametrizations.spectral_norm(first_layer(m)), "parametrizations (_SpectralNorm) are merged"),
    ],
    ids=["weight norm", "spectral norm", "masks", "parametrized weight norm", "parametrized spectral norm"],
)
def test_weights_that_are_computed_are_merged(
    change: Callable[[Any], object], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = changed(change)
    with torch.no_grad():
        wanted = model(IMAGES)
    keys = list(model.state_dict())
    adopted = adopt(model)
    assert told in capsys.readouterr().err
    assert adopted.state_dict().keys() == make_tiny().state_dict().keys()
    assert type(first_layer(adopted)) is nn.Linear
    assert torch.allclose(adopted(IMAGES), wanted, atol=1e-5)
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (lambda m: setattr(m.blocks[1].mlp.fc1, "weight", m.blocks[0].mlp.fc1.weight), "blocks.1.mlp.fc1.weight"),
        (lambda m: m.blocks.__setitem__(1, m.blocks[0]), "blocks.1"),
    ],
    ids=["parameter", "module"],
)
def test_shared_weights_are_parted(share: Callable[[Any], object], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = changed(share)
    adopted: Any = adopt(model)
    assert f"separate copies with separate bit-widths: {told}\n" in capsys.readouterr().err
    assert adopted.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(adopted(IMAGES), model(IMAGES))
    assert weights_sha256(adopted) == weights_sha256(model)
    assert adopted.blocks[0].mlp.fc1.weight is not adopted.blocks[1].mlp.fc1.weight


def test_a_second_name_that_is_only_a_name_stays_one(capsys: pytest.CaptureFixture[str]) -> None:
    model = changed(lambda m: (setattr(m, "alias", m.blocks[0].mlp.fc1), setattr(m, "all", m.blocks)))
    adopted: Any = adopt(model, IMAGES[:1])
    assert adopted.alias is first_layer(adopted)
    assert adopted.all is adopted.blocks
    assert weights_sha256(adopted) == weights_sha256(model)
    assert capsys.readouterr().err == ""
    assert not any(module._forward_pre_hooks for module in adopted.modules())


def test_a_first_name_that_is_only_a_name_does_not_hide_the_second(capsys: pytest.CaptureFixture[str]) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            vit: Any = make_tiny()
            self.head, self.vit = vit.head, vit

        def forward(self, x: Tensor) -> Tensor:
            return self.vit(x)

    adopted: Any = adopt(Wrapped(), IMAGES[:1])
    assert adopted.head is not adopted.vit.head
    assert "separate copies with separate bit-widths: vit.head\n" in capsys.readouterr().err


def test_the_users_module_stays_as_it_is() -> None:
    model: Any = nn.DataParallel(changed(lambda m: m.blocks[0].register_forward_hook(lambda *_: None))).train()
    weight_norm(first_layer(model.module))
    model.module.set_grad_checkpointing(True)
    model(IMAGES).sum().backward()
    before, grad = copy.deepcopy(model.state_dict()), first_layer(model.module).bias.grad.clone()
    adopt(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(first_layer(model.module).bias.grad, grad)
    assert model.training
    assert model.module.grad_checkpointing
    assert len(model.module.blocks[0]._forward_hooks) == len(first_layer(model.module)._forward_pre_hooks) == 1


def scripted() -> nn.Module:
    script: nn.Module = torch.jit.script(nn.Linear(2, 2))
    return script


def in_itself() -> nn.Module:
    model: Any = make_tiny()
    model.blocks[0].up = model
    return model  # type: ignore[no-any-return]


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return make_tiny()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: nn.Flatten(), "Flatten has no parameters"),
        (lambda: nn.Sequential(scripted()), "is a TorchScript program"),
        (lambda: changed(lambda m: setattr(m, "head", nn.LazyLinear(5))), "'head.weight' .* is not initialised yet"),
        (on_meta, "'cls_token' .* has no values"),
        (lambda: changed(lambda m: setattr(m, "lock", threading.Lock())), "cannot be copied: cannot pickle"),
        (in_itself, "contains itself, as 'up' of Block"),
        (
            lambda: changed(lambda m: setattr(m.head, "weight", nn.Parameter(torch.zeros(7, 32).int(), False))),
            "'head.weight' .* is torch.int32",
        ),
        (
            lambda: changed(lambda m: m.blocks[0].register_forward_hook(lambda m, i, o: 2 * o)),
            "hooks of modules 'blocks.0' change",
        ),
        (lambda: print, "must be a torch module .*, not builtin_function_or_method"),
    ],
    ids=["no parameters", "script", "lazy", "meta", "lock", "cycle", "integers", "changing hook", "no module"],
)
def test_what_cannot_be_taken_in_gets_one_line(make: Make, told: str) -> None:
    with pytest.raises(PmqError, match=told) as error:
        adopt(make(), IMAGES[:1])
    assert "\n" not in str(error.value)


def test_one_device() -> None:
    with pytest.raises(PmqError, match="several devices, cpu, cuda:1"):
        check_one_device([torch.device("cpu"), torch.device("cuda:1"), torch.device("cpu")])


class Giving(nn.Module):
    """Gives what a function makes of logits."""

    def __init__(self, give: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.vit, self.give = make_tiny(), give

    def forward(self, x: Tensor) -> Any:
        return self.give(self.vit(x))


class Asking(Giving):
    def forward(self, x: Tensor, mask: Tensor) -> Any:  # type: ignore[override]
        return self.vit(x * mask)


@dataclass
class Record:
    loss: Tensor | None
    pooler_output: Tensor
    hidden: tuple[Tensor, ...]


@pytest.mark.parametrize(
    ("give", "told"),
    [
        (lambda y: {"last_hidden_state": 2 * y, "logits": y}, "last_hidden_state, logits, pmq uses logits"),
        (lambda y: {"count": y.argmax(1), "aux": {"logits": y}}, "aux.logits, pmq uses aux.logits"),
        (lambda y: (y, 2 * y), "0, 1, pmq uses 0"),
        (lambda y: [y.argmax(1), y], "1, pmq uses 1"),
        (lambda y: Record(None, y, (2 * y,)), "pooler_output, hidden.0, pmq uses pooler_output"),
        (lambda y: y.double(), ""),
    ],
    ids=["logits", "nested", "tuple", "list", "dataclass", "double"],
)
def test_one_tensor_of_an_output_is_picked(give: Callable[[Tensor], Any], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = adopt(Giving(give), IMAGES[:1])
    wanted = make_tiny()(IMAGES)
    assert pick_output(model, IMAGES[:1]).shape == wanted[:1].shape
    assert told in capsys.readouterr().err
    assert torch.equal(copy.deepcopy(model)(IMAGES), wanted)


def test_outputs_are_taken_by_name() -> None:
    def give(y: Tensor) -> dict[str, Any]:
        return {"logits": y, "hidden": (2 * y, 3 * y)}

    wanted = make_tiny()(IMAGES)
    model = adopt(with_output(Giving(give), "hidden.1"), IMAGES[:1])
    torch.testing.assert_close(pick_output(model, IMAGES[:1]), 3 * wanted[:1])
    several = adopt(with_output(Giving(give), "logits", "hidden.0"), IMAGES[:1])
    pick_output(several, IMAGES[:1])
    found = several(IMAGES)
    assert found.shape == (len(IMAGES), 14)
    torch.testing.assert_close(found[:, :7], found[:, 7:])  # each beside its own size
    with pytest.raises(PmqError, match=r"the model has no output 'hidden.2'; it returns logits, hidden.0, hidden.1"):
        pick_output(adopt(with_output(Giving(give), "hidden.2"), IMAGES[:1]), IMAGES[:1])


def test_several_outputs_are_searched_and_not_deployed(tmp_path: Path) -> None:
    images = torch.randn(24, 3, 32, 32)
    model = with_output(Giving(lambda y: {"a": y[:, :3], "b": 100 * y[:, 3:]}), "a", "b")
    batches = [{"pixel_values": part} for part in images.split(8)]
    found = pmq.search(
        model, batches, "8bit", space="onnxruntime", options=pmq.SearchOptions(recipe="minmax", n_rounds=1, max_evals=8)
    )
    assert 0 < found.allocation.metrics["feature_error"] < 0.1
    with pytest.raises(PmqError, match="several outputs of this model were selected"):
        pmq.deploy(model, found.allocation, "onnxruntime", images, tmp_path)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (Giving(lambda y: y.argmax(1)), "returns torch.int64"),
        (Giving(lambda y: None), "returns NoneType"),
        (Giving(lambda y: y.sum()), r"returns shape \(\) for a batch of 1"),
        (Giving(lambda y: y @ y), "fails on an image of shape"),
        (Asking(lambda y: y), "Asking.forward cannot be called with only a batch of images .*'mask'"),
    ],
    ids=["decisions", "nothing", "a number", "error", "more arguments"],
)
def test_outputs_that_mean_nothing_get_one_line(model: nn.Module, told: str) -> None:
    with pytest.raises(PmqError, match=told):
        pick_output(model, IMAGES[:1])
