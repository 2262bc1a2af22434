"""Work of the platform beside requests, on the same cores."""

from __future__ import annotations

import os


def give_way() -> None:
    """Let whoever waits for this core go first. Work that goes on for milliseconds calls it every
    fraction of one: else each time it runs, some requests wait for all of it, and they are more
    than one in a hundred."""
    os.sched_yield()
