"""Full-integer LiteRT files: norms are written out exactly, and the space holds nothing that the runtime cannot run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pmq.core import PmqError
from pmq.core.component import Inventory
from pmq.graph import captured, take_inventory, with_tensors
from pmq.optimize import Space, read_space
from pmq.runtimes import TARGETS

TARGET = TARGETS["litert-static"]
MOMENTS = ("mean", "sub", "mul", "mean:2", "add", "sqrt")


class Normed(nn.Module):
    """A norm and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(16, eps=1e-6), nn.Linear(16, 4)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(B, 4)``."""
        result: torch.Tensor = self.head(self.norm(x)).mean(1)
        return result


@pytest.fixture(scope="module")
def inventory() -> Inventory:
    torch.manual_seed(0)
    module, images = Normed().eval(), torch.randn(2, 5, 16)
    model = with_tensors(captured(module, images[:1]), norms=True)
    torch.testing.assert_close(model(images), module(images))
    return take_inventory(model, images[:1])


def test_norms_are_written_out(inventory: Inventory) -> None:
    assert [c.name for c in inventory if c.kind == "moment"] == [f"norm.{name}.tensor" for name in MOMENTS]
    assert inventory.norms_written_out
    assert inventory["norm.add:2.tensor"].kind == "norm"


def test_the_space_holds_what_the_target_runs(inventory: Inventory) -> None:
    space = Space(read_space("litert-static"), inventory)
    for step in range(max(map(len, space.decisions))):
        assignment = space.assignment([min(step, len(d) - 1) for d in space.decisions])
        TARGET.check(assignment, inventory)
        for name, choice in assignment.items():
            if name.endswith(".tensor"):
                assert choice.symmetric == (choice.bits == 16)  # int16 has no zero point
        assert {assignment[f"norm.{name}.tensor"].bits for name in MOMENTS} == {16}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image.tensor": {"bits": 4}}, "cannot run 'image.tensor' at 4 bits"),
        ({"image.tensor": {"bits": 16, "symmetric": False}}, "'image.tensor', whose grid is not symmetric"),
        ({"head.tensor": {"bits": 16, "symmetric": True}}, "'head' at 8 x 8 bits with a result of 16 bits"),
    ],
)
def test_refuses_what_it_cannot_run(changes: dict[str, Any], message: str, inventory: Inventory) -> None:
    uniform = Space(read_space("litert-static"), inventory).uniform(8, 8)
    changed = {name: uniform[name].model_copy(update=options) for name, options in changes.items()}
    with pytest.raises(PmqError, match=message):
        TARGET.check(uniform | changed, inventory)


def test_allocations_of_another_form_are_refused(inventory: Inventory) -> None:
    """The tensors inside of norms are components here, and are not on ``qdq``."""
    uniform = Space(read_space("litert-static"), inventory).uniform(8, 8)
    with pytest.raises(PmqError, match="'qdq' has other tensors inside of norms"):
        TARGETS["qdq"].check(uniform, inventory)
