"""Call the function that trains: `python -m modelfleet_worker.training MODULE:FUNCTION`.

The function gets what it has parameters for: each input by its name (a path), `output` (the folder
for what it makes), `inputs` (all inputs). Numbers that it returns by name are metrics.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

INPUT = "MODELFLEET_INPUT_"
OUTPUT = "MODELFLEET_OUTPUT"
INPUTS = "MODELFLEET_INPUTS"


def call(entry: str) -> None:
    """Raises what the function raises."""
    module, _, name = entry.partition(":")
    sys.path.insert(0, os.getcwd())
    function = getattr(importlib.import_module(module), name)
    output = Path(os.environ[OUTPUT])
    inputs = {key: Path(path) for key, path in json.loads(os.environ[INPUTS]).items()}
    offered: dict[str, Any] = {**inputs, "inputs": inputs, "output": output}
    parameters = inspect.signature(function).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        given = offered
    else:
        given = {one.name: offered[one.name] for one in parameters if one.name in offered}
    returned = function(**given)
    if isinstance(returned, dict) and returned:
        metrics = {str(key): float(value) for key, value in returned.items()}
        (output / "metrics.json").write_text(json.dumps(metrics), "utf-8")


if __name__ == "__main__":
    call(sys.argv[1])
