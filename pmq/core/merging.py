"""The merging plan: how many tokens are merged behind each block of a model."""

from __future__ import annotations

import itertools
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1, le=1 << 16)]


class MergingPlan(BaseModel):
    """How many tokens are merged behind each block.

    Attributes:
        tokens: number of tokens of an image before any are merged.
        prefix: tokens at the front, such as the class token, which are not merged.
        merged: number of tokens by the name of the block, in the order of the blocks.

    >>> plan = MergingPlan(tokens=197, prefix=1, merged={"blocks.3": 16, "blocks.7": 40})
    >>> plan.label
    '16 behind blocks.3, 40 behind blocks.7; 141 of 197 remain'
    >>> plan.remaining
    {'blocks.3': 181, 'blocks.7': 141}
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: Count
    prefix: int = Field(ge=0, le=1 << 10)
    merged: dict[Name, Count]

    @model_validator(mode="after")
    def _merges(self) -> MergingPlan:
        if not self.merged:
            raise ValueError("merged is empty; a model whose tokens are not merged has no merging plan")
        for block, left in self.remaining.items():
            if left + self.merged[block] - self.prefix < 2 * self.merged[block]:
                raise ValueError(f"merged has {self.merged[block]} tokens behind {block!r}, more than half of the patches there")
        return self

    @property
    def remaining(self) -> dict[str, int]:
        """Number of tokens that remain behind each block that merges some."""
        left = itertools.accumulate(self.merged.values(), lambda tokens, count: tokens - count, initial=self.tokens)
        return dict(zip(self.merged, itertools.islice(left, 1, None), strict=True))

    @property
    def label(self) -> str:
        """The plan as text."""
        merged = ", ".join(f"{count} behind {block}" for block, count in self.merged.items())
        return f"{merged}; {[*self.remaining.values()][-1]} of {self.tokens} remain"
