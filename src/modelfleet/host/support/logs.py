"""The ends of logs, in a form that others may read.

Platform processes write what happened; values that they quote are left out. In a worker's log
stands whatever model code prints, so of that only our own events are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from modelfleet.host.support.redact import quiet, without_literals

_MOST_BYTES = 4 << 20
_EVENT = ("time", "level", "pid", "event", "revision", "index", "version", "model", "seconds")
_OURS = {"time", "level", "pid", "event"}
_TOLD = ("error", "trace", "exception", "reason")
_MODEL_CODE_FAILED = "job failed"
"""versions are checked in jobs, by their own code"""
_MODEL_CODE = ("worker-", "pipelines-")


def ends(folder: Path, lines: int) -> Iterator[tuple[str, str]]:
    """File name and text of each log."""
    for path in sorted(folder.glob("*.log*")):
        if path.is_file():
            make = _event if path.name.startswith(_MODEL_CODE) else _line
            yield path.name, "".join(f"{make(line)}\n" for line in _tail(path, lines))


def _tail(path: Path, lines: int) -> list[str]:
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _MOST_BYTES))
        return stream.read().decode(errors="replace").splitlines()[-lines:]


def _line(text: str) -> str:
    try:
        found = json.loads(text)
    except ValueError:
        return without_literals(text)
    if not isinstance(found, dict):
        return without_literals(text)
    if found.get("event") == _MODEL_CODE_FAILED:
        return json.dumps(_silenced(found))
    shown = {
        name: without_literals(str(value)) if name in _TOLD else value
        for name, value in found.items()
    }
    return json.dumps(shown)


def _silenced(found: dict[str, object]) -> dict[str, object]:
    """An event without what an error says: model code may have said it."""
    shown = dict(found)
    if "error" in found:
        shown["error"] = quiet(str(found["error"]))
    for name in ("trace", "traceback", "exception"):
        if name in found:
            shown[name] = _frames(str(found[name]))
    return shown


def _event(text: str) -> str:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not found.keys() >= _OURS:
        return "ready" if text == "ready" else f"[{len(text)} characters by the model]"
    shown = {name: found[name] for name in _EVENT if isinstance(found.get(name), (str, int, float))}
    shown |= {name: found[name] for name in ("error", "traceback") if name in found}
    return json.dumps(_silenced(shown))


def _frames(trace: str) -> list[str]:
    """Where it happened; not the code, and not what was said."""
    return [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
