"""Recipes that cannot be carried out are none."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pmq.core.recipe import RECIPES


@pytest.mark.parametrize("name", ["fast", "best"])
def test_gradients_are_not_left_out_where_they_are_read(name: str) -> None:
    with pytest.raises(ValidationError, match="need gradients"):
        type(RECIPES[name]).model_validate(RECIPES[name].model_dump() | {"gradients": False})
