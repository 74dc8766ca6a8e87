"""The merging plan: how many tokens are merged behind each block of a model."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1, le=1 << 16)]


class MergingPlan(BaseModel):
    """How many tokens are merged behind each block.

    Attributes:
        prefix: tokens at the front, such as the class token, which are not merged.
        merged: number of tokens by the name of the block, in the order of the blocks.

    >>> MergingPlan(prefix=1, merged={"blocks.3": 16, "blocks.7": 40}).label
    '16 behind blocks.3, 40 behind blocks.7'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefix: int = Field(ge=0, le=1 << 10)
    merged: dict[Name, Count]

    @model_validator(mode="after")
    def _merges(self) -> MergingPlan:
        if not self.merged:
            raise ValueError("merged is empty; a model whose tokens are not merged has no merging plan")
        return self

    @property
    def label(self) -> str:
        """The plan as text."""
        return ", ".join(f"{count} behind {block}" for block, count in self.merged.items())
