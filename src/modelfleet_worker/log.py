"""Log lines: one JSON object per line on stderr."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from typing import Union

import msgspec

Value = Union[str, int, float, bool, None]
_encode = msgspec.json.Encoder().encode


def event(level: str, text: str, **fields: Value) -> None:
    """Write one line. `text` says what happened, `fields` with what."""
    line = {"time": time.time(), "level": level, "pid": os.getpid(), "event": text, **fields}
    with contextlib.suppress(OSError):  # the reader of our log may be gone; we serve on
        os.write(2, _encode(line) + b"\n")


def failure(text: str, error: BaseException, **fields: Value) -> None:
    """Write an error with its traceback."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    told = _writable("".join(lines)[-8000:])
    event("error", text, error=describe(error), traceback=told, **fields)


def describe(error: BaseException) -> str:
    """Type and text of an error in at most 500 characters: what a client may see of it."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return _writable(text[:500])


def _writable(text: str) -> str:
    """Without halves of surrogate pairs, which no encoder takes."""
    return text.encode(errors="replace").decode()


class Throttle:
    """At most one log line a second of the same kind; the others are counted."""

    def __init__(self) -> None:
        self._last = 0.0
        self._held = 0

    def allows(self) -> bool:
        now = time.monotonic()
        if now - self._last < 1.0:
            self._held += 1
            return False
        self._last = now
        return True

    def held(self) -> int:
        """How many were held back since the last line."""
        held, self._held = self._held, 0
        return held
