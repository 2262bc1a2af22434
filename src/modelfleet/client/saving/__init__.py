"""From a model, as an object or on disk, to a bundle: the files that a version is made of.

`save` takes objects and paths; `detect` tells what a path holds; `read_rows` reads example rows.
Objects of the frameworks that this process has (`objects`) describe themselves. Everything else
(`formats`, `pickles`, `mlflow`, `live`) becomes a draft, which `probe` completes by asking the
model in an environment of its own, so that its framework is needed neither here nor by the
platform. The one place outside serving and telemetry that knows the worker's formats.
"""

from __future__ import annotations

from modelfleet.client.saving.formats import detect
from modelfleet.client.saving.installed import own_python
from modelfleet.client.saving.objects import EXAMPLE_ROWS, Saved, requirements_of
from modelfleet.client.saving.rows import read_rows
from modelfleet.client.saving.save import save

__all__ = [
    "EXAMPLE_ROWS",
    "Saved",
    "detect",
    "own_python",
    "read_rows",
    "requirements_of",
    "save",
]
