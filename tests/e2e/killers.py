"""Models that bring their worker down, or hold on to it, when the first feature is a trigger.

Apart from that they answer `score` [rows] to a tensor `x` [rows, 3]. They travel by value.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

EXIT, CRASH, HANG = 1001.0, 1002.0, 1003.0
HANG_SECONDS = 300.0


class Killer:
    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        x = np.asarray(inputs["x"])
        trigger = float(np.max(x))
        if trigger == EXIT:
            os._exit(3)
        if trigger == CRASH:
            ctypes.string_at(0)
        if trigger == HANG:
            time.sleep(HANG_SECONDS)
        return {"score": x[:, 0]}


class Picky(Killer):
    """Loads where models are checked, and in no worker."""

    def __getstate__(self) -> dict[str, Any]:
        return {"made": True}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "modelfleet_worker.process" in sys.modules:
            raise RuntimeError("only in the workshop")


class Gossip(Killer):
    """Tells the world what it was asked."""

    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        rows = np.asarray(inputs["x"])
        sys.stdout.write(f"I was asked {rows[0].tolist()}\n")
        sys.stdout.flush()
        if float(np.max(rows)) > HANG:
            raise ValueError(f"too much: {rows[0].tolist()}")
        return {"score": rows[:, 0]}
