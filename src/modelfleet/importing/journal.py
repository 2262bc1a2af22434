"""What an import did so far: one line of JSON for each item, on disk before the next begins."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec

from modelfleet.client.errors import ClientError
from modelfleet.importing.types import IMPORTED, Outcome


class Journal:
    """In a folder of its own, beside what could not be registered (`kept/`). One import at a time
    holds it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "journal.jsonl"
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise ClientError(f"Another import is at work with {folder}.") from None
        self._last = self._read()

    def _read(self) -> dict[str, Outcome]:
        """The last word on each item. A line that was cut by a crash is dropped."""
        found: dict[str, Outcome] = {}
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.ftruncate(self._file, whole)
        for line in content[:whole].splitlines():
            outcome = msgspec.json.decode(line, type=Outcome)
            found[outcome.key] = outcome
        return found

    def imported(self, key: str) -> Outcome | None:
        """What was imported under that key; None if it was not."""
        found = self._last.get(key)
        return found if found is not None and found.state == IMPORTED else None

    def add(self, outcome: Outcome) -> None:
        os.write(self._file, msgspec.json.encode(outcome) + b"\n")
        os.fsync(self._file)
        self._last[outcome.key] = outcome

    @property
    def kept(self) -> Path:
        return self.folder / "kept"

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
