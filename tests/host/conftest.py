"""The doctor's tests damage files, so they have SQLite."""

from __future__ import annotations

import pytest


@pytest.fixture
def database_kind() -> str:
    return "sqlite"
