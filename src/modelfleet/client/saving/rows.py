"""Example rows from a file: what the command line takes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelfleet.client.errors import ClientError

if TYPE_CHECKING:
    from modelfleet_worker.wire.signature import Array


def read_rows(path: Path) -> object:
    """A matrix (.npy, or nested lists in .json), or values by name (.npz, .json, .csv with a
    head). `ClientError` if it is none of these."""
    import numpy as np

    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        if path.suffix == ".json":
            said: Any = json.loads(path.read_text("utf-8"))
            if isinstance(said, dict):
                return {name: np.array(values) for name, values in said.items()}
            return np.array(said, dtype=np.float64)
        if path.suffix == ".csv":
            return _csv(path)
    except (OSError, ValueError) as error:
        raise ClientError(f"{path.name} holds no rows: {error}") from error
    raise ClientError(f"{path.name} holds no rows: use .npy, .npz, .json or .csv.")


def _csv(path: Path) -> dict[str, Array]:
    with path.open(newline="", encoding="utf-8") as stream:
        head, *rows = list(csv.reader(stream))
    if not rows or any(len(row) != len(head) for row in rows):
        raise ValueError("every line must have as many values as the head")
    return {name: _typed([row[k] for row in rows]) for k, name in enumerate(head)}


def _typed(values: list[str]) -> Array:
    """Numbers if all are (an empty one is missing), else text."""
    import numpy as np

    try:
        return np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return np.array(values, dtype=object)
