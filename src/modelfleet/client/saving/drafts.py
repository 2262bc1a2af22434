"""A bundle in the making: an artifact that was not asked yet what it takes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelfleet.client.errors import ClientError
from modelfleet.client.saving.installed import own_python


@dataclass(frozen=True)
class Code:
    """Python code that a model needs beside its weights."""

    source: Path | None = None
    class_name: str | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)

    def copy_into(self, files: Path) -> str:
        """The name of the copy. ClientError if there is no source."""
        if self.source is None or not self.source.exists():
            raise ClientError(f"There is no source {self.source}.")
        if self.source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(self.source, files / self.source.name, ignore=ignored)
        else:
            shutil.copyfile(self.source, files / self.source.name)
        return self.source.name


@dataclass
class Draft:
    """folder: holds `files/`. requirements: of the environment that reads and serves it.
    droppable: requirements that are tried to do without."""

    folder: Path
    runtime: str
    artifact: str
    requirements: tuple[str, ...]
    options: dict[str, object] = field(default_factory=dict)
    python: str = field(default_factory=own_python)
    droppable: tuple[str, ...] = ()
    features: tuple[str, ...] | None = None
    refuse_missing: bool | None = None
