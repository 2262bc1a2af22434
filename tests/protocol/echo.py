"""A model that answers each of its inputs, of all datatypes, as it came."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

KINDS = "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 float32 float64".split()
EXAMPLE: dict[str, Any] = {kind: np.array([0, 1, 1]).astype(kind) for kind in KINDS}
EXAMPLE["text"] = np.array(["a", "ü", ""], dtype=object)


class Slow:
    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        time.sleep(1.0)
        return dict(inputs)


class Echo:
    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {f"{name}_back": value for name, value in inputs.items()}
