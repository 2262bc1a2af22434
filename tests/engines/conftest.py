"""Homes that leave nothing behind."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from engine_support import Home


@pytest.fixture
def home() -> Iterator[Home]:
    """Not up yet."""
    with tempfile.TemporaryDirectory(prefix="mfe-") as folder:
        made = Home(Path(folder))
        try:
            yield made
        finally:
            made.kill_everything()
