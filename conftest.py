"""Examples in docstrings show a call and what it gives, and not how deep a search goes; and the order of the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.shallow import shallow_searches

#: files of tests that take longest: they begin first, so that no process waits for one of them at the end; and the file that
#: runs the default search before all, for others wait for it
LONG = (
    *("cli/test_default_run.py", "cli/test_own_model.py", "cli/test_stopped.py", "cli/test_prune.py", "reporting/test_page.py"),
    *("cli/test_patches.py", "api/test_searches.py", "runtimes/test_targets.py", "cli/test_deploy.py", "cli/test_rank.py"),
    *("api/test_joint.py", "api/test_patches.py", "api/test_intake.py", "api/test_prune.py", "patches/test_patches.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of long files first, in the order in which they are named."""
    items.sort(key=lambda item: next((i for i, end in enumerate(LONG) if str(item.path).endswith(end)), len(LONG)))


@pytest.fixture(autouse=True)
def _examples_search_little(request: pytest.FixtureRequest) -> Iterator[None]:
    if not isinstance(request.node, pytest.DoctestItem):
        yield
        return
    with shallow_searches():
        yield
