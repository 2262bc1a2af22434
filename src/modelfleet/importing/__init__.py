"""Bringing models from elsewhere: read where they are, register here, tell what became of each.

Runs at the side of the client: it reads the user's files and servers and registers through the
API. Pickles are read without loading them (`core.scan`), archives are unpacked whole or not at all
(`core.archives`), and model code runs in the sandbox only (`client.saving`). A journal makes a
killed import go on where it was, and a repeated one import nothing twice.

- `run` takes a source (`mlflow_server`, `files`, `triton`, `kserve`, `wandb`, `neptune`) and
  registers what it holds.
- Each item ends `imported`, `attention` (with what to do) or `refused` (with the reason).
"""

from __future__ import annotations

from modelfleet.importing.run import Options, run
from modelfleet.importing.types import Attention, Found, Item, Outcome, Refused, RunRecord, Source

__all__ = [
    "Attention",
    "Found",
    "Item",
    "Options",
    "Outcome",
    "Refused",
    "RunRecord",
    "Source",
    "run",
]
