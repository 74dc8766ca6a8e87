from http.client import HTTPException
from pathlib import Path

import pytest
import torch
from huggingface_hub import errors
from safetensors import SafetensorError
from safetensors.torch import save_file

from pmq.core import PmqError
from pmq.models import create_model, model_info
from pmq.models.torchvision_ops import ensure_torchvision

NAME = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    ensure_torchvision()
    import timm

    return timm.create_model(NAME, num_classes=11).state_dict()


def test_embedded_model_is_trained() -> None:
    model = create_model()
    assert model_info(model).name == "vit_fashion_mnist"
    assert model_info(model).data_config["input_size"] == [1, 28, 28]


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "wrapped.pth"])
def test_number_of_classes_is_read_off_the_head(tmp_path: Path, state: dict, suffix: str) -> None:
    path = tmp_path / f"m.{suffix}"
    if suffix == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if "wrapped" in suffix else state, path)
    model = create_model(NAME, path)
    assert model.num_classes == 11
    assert torch.equal(model.head.weight, state["head.weight"])
    assert create_model(NAME, path, num_classes=0).num_classes == 0
    with pytest.raises(PmqError, match="`num_classes=5`"):
        create_model(NAME, path, num_classes=5)


def test_headless_checkpoint_makes_a_feature_extractor(tmp_path: Path, state: dict) -> None:
    save_file({k: v for k, v in state.items() if not k.startswith("head.")}, tmp_path / "m.safetensors")
    model = create_model(NAME, tmp_path / "m.safetensors")
    assert model.num_classes == 0
    assert model_info(model).num_classes == 0


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda p, s: None, "does not exist"),
        (lambda p, s: p.write_bytes(b""), "is empty"),
        (lambda p, s: (torch.save(s, p), p.write_bytes(p.read_bytes()[:5000])), "truncated or not a checkpoint"),
        (lambda p, s: torch.save({"state_dict": s, "x": Evil()}, p), "pickled code"),
        (lambda p, s: torch.save({k: v for k, v in s.items() if k != "norm.bias"}, p), "has no 'norm.bias'"),
        (lambda p, s: torch.save(s | {"more": torch.zeros(1)}, p), "has 'more'"),
        (lambda p, s: torch.save(s | {"cls_token": torch.zeros(1, 1, 5)}, p), "'cls_token' is (1, 1, 5)"),
        (lambda p, s: torch.save({"a": 1}, p), "contains no tensors"),
        (lambda p, s: torch.save([1], p), "checkpoint"),
    ],
)
def test_bad_checkpoints(tmp_path: Path, state: dict, capsys: pytest.CaptureFixture[str], make, told: str) -> None:
    path = tmp_path / "m.pth"
    make(path, state)
    with pytest.raises(PmqError) as error:
        create_model(NAME, path)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert "code ran" not in capsys.readouterr().out


def test_truncated_safetensors(tmp_path: Path, state: dict) -> None:
    path = tmp_path / "m.safetensors"
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(PmqError, match="truncated"):
        create_model(NAME, path)


def test_wrong_name_suggests_near_ones() -> None:
    with pytest.raises(PmqError, match=r"did you mean.*deit_tiny_patch16_224"):
        create_model("deit_tinny_patch16_224")


def test_random_weights_depend_on_the_seed_alone() -> None:
    a, b, c = (create_model(NAME, pretrained=False, seed=s) for s in (0, 0, 1))
    assert model_info(a) == model_info(b)
    assert model_info(a).weights_sha256 != model_info(c).weights_sha256


@pytest.mark.parametrize(
    "error",
    [
        errors.HTTPError("no route"),
        errors.EntryNotFoundError("no route"),
        errors.LocalEntryNotFoundError("no route"),
        HTTPException("no route"),
        SafetensorError("no route"),
        KeyError("no route"),
        ImportError("no route"),
        AssertionError("no route"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_be_fetched_or_made_gets_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    ensure_torchvision()
    import timm

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(PmqError, match=r"timm cannot create 'hf-hub:a/b': .*no route.*; pass `checkpoint`"):
        create_model("hf-hub:a/b")
