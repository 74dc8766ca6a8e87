"""What a search must obey: bits that stay, what is left out, fewest and most bits, ties."""

from __future__ import annotations

import pytest
import torch

import pmq
from pmq.core import PmqError
from pmq.graph import analyse
from pmq.optimize import Space, read_space
from pmq.optimize.constraints import Constraints
from tests.conftest import make_tiny


def laid_out(name: str = "default", **constraints: object) -> Space:
    inventory = analyse(make_tiny(), torch.zeros(1, 3, 32, 32))[1]
    return Space(Constraints(**constraints).applied(read_space(name), inventory), inventory)  # type: ignore[arg-type]


def bits(space: Space, name: str) -> list[int]:
    return [int(choice.bits) for choice in space.choices[name]]


def test_bits_stay_by_kind_by_component_and_by_module() -> None:
    space = laid_out(keep={"softmax": 6, "blocks.0.*": 32, "head": 8, "blocks.1.mlp.fc1.weight": 3})
    assert bits(space, "blocks.1.attn.softmax") == [6]
    assert bits(space, "blocks.0.mlp.fc2.weight") == bits(space, "blocks.0.attn.softmax") == [32]
    assert bits(space, "head.weight") == bits(space, "head.input") == [8]
    assert bits(space, "blocks.1.mlp.fc1.weight") == [3]
    assert bits(space, "blocks.1.mlp.fc1.input") == [2, 3, 4, 5, 6, 7, 8]


def test_what_is_left_out_stays_fp32_where_modes_are_searched_too() -> None:
    for name in ("default", "onnxruntime"):
        space = laid_out(name, exclude=["blocks.0.mlp*"])
        assert bits(space, "blocks.0.mlp.fc1.weight") == bits(space, "blocks.0.mlp.fc1.input") == [32]
        assert len(bits(space, "blocks.1.mlp.fc1.weight")) > 1


def test_fewest_and_most_bits() -> None:
    space = laid_out(min_bits=4, max_bits=6)
    assert {tuple(bits(space, name)) for name in space.inventory.names if not name.endswith("proj.input")} == {(4, 5, 6)}
    assert bits(space, "patch_embed.proj.input") == [8]  # the image's own
    modes = laid_out("onnxruntime", max_bits=8).file.modes
    assert modes
    assert all(mode.weight.bits <= 8 and mode.input.bits <= 8 for mode in modes.values())


def test_ties_are_added() -> None:
    space = laid_out(ties=[("qkv", "proj@block")])
    (decision,) = [d for d in space.decisions if "blocks.0.attn.qkv.weight" in d.components]
    assert decision.components == ("blocks.0.attn.qkv.weight", "blocks.0.attn.proj.weight")


@pytest.mark.parametrize(
    ("constraints", "told"),
    [
        ({"keep": {"blocks.9.*": 8}}, r"'blocks.9.\*' matches no component of the model; use a kind, such as 'patch_embed'"),
        ({"keep": {"head": 9}}, "'head' cannot be kept at 9 bits; allowed are 2 to 8, and 32 or fp32"),
        ({"min_bits": 6, "max_bits": 4}, "`min_bits` 6 is above `max_bits` 4; exchange them"),
        ({"min_bits": 9, "max_bits": 16}, "gives weights 2, 3, 4, 5, 6, 7, 8 bits; none of them is from 9 to 16"),
        ({"ties": [("qkv",)]}, "'qkv' is not a tie; write PATTERN,PATTERN"),
        ({"ties": [("qkv", "proj@layer")]}, "is not a tie"),
    ],
)
def test_what_cannot_be_is_told(constraints: dict[str, object], told: str) -> None:
    with pytest.raises(PmqError, match=told):
        laid_out(**constraints)


def test_they_are_read_as_they_are_written() -> None:
    found = Constraints.parse(["head=8", "blocks.0.*=FP32"], ["patch_embed*"], 4, 8, ["qkv,proj@block"])
    assert found.keep == {"head": 8, "blocks.0.*": 32}
    assert found.describe() == (
        "head at 8 bit, blocks.0.* at FP32, patch_embed* excluded, at least 4 bit, at most 8 bit, qkv and proj@block alike"
    )
    for wrong in ("head", "=8", "head=many"):
        with pytest.raises(PmqError, match="is not PATTERN=BITS"):
            Constraints.parse([wrong])
    assert not Constraints.parse().any


def test_a_search_obeys_and_says_what_the_budget_is_then(capsys: pytest.CaptureFixture[str]) -> None:
    constraints = pmq.Constraints(keep={"blocks.0.*": 8}, exclude=["head"])
    found = pmq.search(
        make_tiny(),
        torch.randn(24, 3, 32, 32),
        "4bit",
        options=pmq.SearchOptions(constraints=constraints, recipe="minmax", n_rounds=1, max_evals=4),
    )
    chosen = found.allocation.components
    assert {choice.bits for name, choice in chosen.items() if name.startswith("blocks.0.")} == {8}
    assert chosen["head.weight"].bits == 32
    assert "constraints: blocks.0.* at 8 bit, head excluded; with them, budget 4bit is at most 0." in capsys.readouterr().err
