"""A gateway in a home of its own."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from gateway_support import Gateway, free_port

from modelfleet.core.keys import SigningKey
from modelfleet.core.layout import Layout
from modelfleet.serving.gateway import GatewayFiles, Limits


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """Not started yet. Its home has a short path, for the sake of its sockets."""
    with tempfile.TemporaryDirectory(prefix="mfg-") as folder:
        layout = Layout(Path(folder))
        key = SigningKey(layout)
        files = GatewayFiles(layout, limits=Limits(body_bytes=1 << 20))
        layout.sockets.mkdir(parents=True)
        made = Gateway(layout, files, free_port(), free_port(), key)
        try:
            yield made
        finally:
            made.stop()
