"""The run that many commands are tried on."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def run(default_run: Path) -> Path:
    return default_run
