"""Checkpoints as users have them: whatever is around the weights, and nothing but weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pmq.core import PmqError
from pmq.models import create_model
from pmq.models.torchvision_ops import ensure_torchvision

NAME = "test_vit"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    ensure_torchvision()
    import timm

    return timm.create_model(NAME, num_classes=5).state_dict()


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def other(state: State) -> State:
    return {key: value + 1 for key, value in state.items()}


def loaded(path: Path, saved: object) -> State:
    torch.save(saved, path)
    return create_model(NAME, path).state_dict()


@pytest.mark.parametrize("place", ["state_dict", "model", "module", "model_ema", "params", "a.b"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "backbone.", "_orig_mod.module.", "net.0."])
def test_weights_are_found_wherever_they_fit(
    tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str], place: str, prefix: str
) -> None:
    saved: object = prefixed(state, prefix)
    for key in reversed(place.split(".")):
        saved = {key: saved, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}
    found = loaded(tmp_path / "m.pth", saved)
    assert all(torch.equal(found[key], value) for key, value in state.items())
    told = capsys.readouterr().err
    assert f"weights below '{place}'" in told
    assert (f"names without '{prefix}'" in told) == bool(prefix)


def test_wrappers_within_names_are_taken_off(tmp_path: Path, state: State) -> None:
    found = loaded(tmp_path / "m.pth", {key.replace("attn.", "attn._orig_mod."): value for key, value in state.items()})
    assert torch.equal(found["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])


def test_two_places_that_hold_the_same_are_one(tmp_path: Path, state: State) -> None:
    assert loaded(tmp_path / "m.pth", {"model": state, "model_ema": dict(state)})


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda s: {"model": s, "model_ema": other(s)}, "at 'model' and 'model_ema' that differ and both fit"),
        (lambda s: prefixed(s, "model.") | {"loss.weight": torch.zeros(1)}, "pass a checkpoint of this model"),
        (lambda s: {"model": prefixed(s, "net.") | {"net.more": torch.zeros(1)}}, "has 'more'"),
        (lambda s: torch.zeros(3), "contains Tensor instead of a state dict"),
    ],
    ids=["two fit", "no common prefix", "one more", "a tensor"],
)
def test_nothing_is_guessed(tmp_path: Path, state: State, make: Callable[[State], object], told: str) -> None:
    with pytest.raises(PmqError, match=told):
        loaded(tmp_path / "m.pth", make(state))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: w.int(), "holds int32, but float32 in 'test_vit'; pass a checkpoint with floating-point numbers"),
        (lambda w: w.bool(), "holds bool"),
        (lambda w: w.to(torch.complex64), "holds complex64"),
        (lambda w: w.to_sparse(), r"holds float32 \(sparse_coo\)"),
        (lambda w: w.to("meta"), "holds float32 without values"),
    ],
    ids=["int", "bool", "complex", "sparse", "meta"],
)
def test_parameters_take_only_plain_floats(tmp_path: Path, state: State, change: Callable[[Tensor], Tensor], told: str) -> None:
    key = "blocks.0.mlp.fc1.weight"
    with pytest.raises(PmqError, match=f"'{key}' {told}"):
        loaded(tmp_path / "m.pth", state | {key: change(state[key])})


def test_a_header_that_lies_is_told(tmp_path: Path, state: State) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"cls_token": state["cls_token"]} | {k: v.contiguous() for k, v in state.items()}, path)
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"'))
    with pytest.raises(PmqError, match="holds int32"):
        create_model(NAME, path)


def test_other_floats_are_taken_and_told(tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str]) -> None:
    found = loaded(tmp_path / "m.pth", {key: value.double() for key, value in state.items()})
    assert torch.equal(found["norm.weight"], state["norm.weight"])
    assert "holds float64, converted to FP32" in capsys.readouterr().err


def test_integer_buffers_take_integers(tmp_path: Path) -> None:
    ensure_torchvision()
    import timm

    own = timm.create_model("test_resnet", num_classes=5).state_dict()
    torch.save({key: value + 1 for key, value in own.items()}, tmp_path / "m.pth")
    assert create_model("test_resnet", tmp_path / "m.pth").bn1.num_batches_tracked == 1  # type: ignore[union-attr]
    torch.save(own | {"bn1.num_batches_tracked": torch.tensor(1.5)}, tmp_path / "m.pth")
    with pytest.raises(PmqError, match=r"'bn1.num_batches_tracked' holds float32, but int64 in 'test_resnet'"):
        create_model("test_resnet", tmp_path / "m.pth")


def test_content_counts_not_the_name(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "m.pth")
    torch.save(state, tmp_path / "m.safetensors")
    for name in ("m.pth", "m.safetensors"):
        assert torch.equal(create_model(NAME, tmp_path / name).norm.weight, state["norm.weight"])  # type: ignore[union-attr]


def test_a_layout_that_timm_converts_is_told(tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str]) -> None:
    larger = torch.randn(1, 1 + 12**2, 64)
    of_clip = prefixed(state | {"pos_embed": larger}, "visual.trunk.") | {"visual.head.proj": larger[0, 0]}
    found = loaded(tmp_path / "m.pth", of_clip)
    assert found["pos_embed"].shape == state["pos_embed"].shape
    assert "layout converted by timm, resampled to this size: pos_embed" in capsys.readouterr().err


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda p: p.mkdir(), "is not a regular file"),
        (os.mkfifo, "is not a regular file"),
        (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git lfs pull"),
        (lambda p: torch.save(Evil(), p), r"pickled code \(builtins.print\)"),
        (lambda p: torch.save(torch.nn.Linear(1, 1), p), r"pickled code \(torch.nn.modules.linear.Linear\)"),
        (lambda p: torch.jit.script(torch.nn.Linear(1, 1)).save(p), "is a TorchScript program"),
        (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(100)), "truncated or not a checkpoint"),
        (lambda p: p.write_bytes((9).to_bytes(8, "little") + b"{}"), "truncated or not a checkpoint"),
    ],
    ids=["folder", "pipe", "lfs", "code", "module", "torchscript", "zip", "short"],
)
def test_what_is_no_checkpoint_gets_its_own_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], object], told: str
) -> None:
    make(tmp_path / "m.pth")
    with pytest.raises(PmqError, match=told) as error:
        create_model(NAME, tmp_path / "m.pth")
    assert "\n" not in str(error.value)
    assert "code ran" not in capsys.readouterr().out


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(PmqError, match="cannot be read"):
        create_model(NAME, tmp_path / ("x" * 300))
