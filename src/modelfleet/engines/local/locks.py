"""One agent and one keeper per home: locks that the kernel drops with their holder."""

from __future__ import annotations

import os
from pathlib import Path

from modelfleet.core.files import hold


def held(path: Path) -> bool:
    """Does somebody hold it?"""
    handle = hold(path)
    if handle is None:
        return True
    os.close(handle)
    return False
