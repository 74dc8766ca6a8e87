"""Examples in docstrings show a call and what it gives; how deep a search goes is not seen in them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.shallow import shallow_searches


@pytest.fixture(autouse=True)
def _examples_search_little(request: pytest.FixtureRequest) -> Iterator[None]:
    if not isinstance(request.node, pytest.DoctestItem):
        yield
        return
    with shallow_searches():
        yield
