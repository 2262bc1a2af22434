"""What a person sees while something takes its time: one line on a terminal, else nothing."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

import msgspec

_WIDTH = 100


class Progress(msgspec.Struct, frozen=True):
    """How far the preparation of a version is; `total` 0 where there is nothing to count."""

    phase: str
    done: int = 0
    total: int = 0
    what: str = ""

    def __str__(self) -> str:
        counted = f" {self.done} of {self.total}" if self.total and self.done else ""
        return f"{self.phase}{counted or (f' {self.total} packages' if self.total else '')}" + (
            f" ({self.what})" if self.what else ""
        )


class Line:
    """A line that is written over; it vanishes at the end."""

    def __init__(self, about: str, stream: TextIO | None = None) -> None:
        self._about = about
        self._stream = stream or sys.stderr
        self._shown = self._stream.isatty()
        self._begun = time.monotonic()

    def say(self, text: str) -> None:
        if self._shown:
            seconds = time.monotonic() - self._begun
            line = f"{self._about}: {text}, {seconds:.0f} s"[:_WIDTH]
            self._stream.write(f"\r\x1b[2K{line}")
            self._stream.flush()

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shown:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()
