"""The three-way difference: what the file says, what was last applied, what is observed.

What a file doesn't name isn't touched. What it named before and names no more goes back to its
default. Pure: mappings in, changes out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Path = tuple[str, ...]
Flat = dict[Path, Any]

FILE, DRIFT, BOTH = "file", "drift", "both"


@dataclass(frozen=True)
class Change:
    """One field. `op` is +, ~ or -."""

    path: str
    op: str
    before: Any
    after: Any
    cause: str = FILE
    """file: the file changed. drift: somebody changed it otherwise, and it goes back. both"""
    recorded_only: bool = False
    """kept with the document; nothing that runs is changed by it"""


@dataclass(frozen=True)
class Difference:
    changes: tuple[Change, ...]
    unrecorded: bool
    """all is as the file says, but the record of it is not"""


def flat(document: Any, path: Path = ()) -> Flat:
    """Leaves by their path. Lists of mappings are taken apart by position, others are leaves."""
    if isinstance(document, Mapping) and document:
        found: Flat = {}
        for name, value in document.items():
            found |= flat(value, (*path, str(name)))
        return found
    if isinstance(document, list) and document and all(isinstance(x, Mapping) for x in document):
        found = {}
        for number, value in enumerate(document):
            found |= flat(value, (*path, f"[{number}]"))
        return found
    return {path: document}


def compare(
    file: Flat, last: Flat | None, observed: Flat, watched: Sequence[Path], defaults: Flat
) -> Difference:
    """watched: beginnings of paths whose present value is in `observed`; `defaults` are theirs."""
    changes, unrecorded = [], last is None
    was_all = last or {}
    for path in sorted({*file, *was_all}):
        want, was = file.get(path), was_all.get(path)
        named = path in file
        if not _under(path, watched):
            if want != was or named != (path in was_all):
                changes.append(Change(_text(path), _op(was, want), was, want, recorded_only=True))
            continue
        now = observed.get(path)
        goal = want if named else defaults.get(path)
        if goal == now:
            unrecorded = unrecorded or named != (path in was_all) or want != was
            continue
        changes.append(Change(_text(path), _op(now, goal), now, goal, _cause(want, was, now)))
    return Difference(tuple(changes), unrecorded)


def _cause(want: Any, was: Any, now: Any) -> str:
    if was == want:
        return DRIFT
    return FILE if was is None or was == now else BOTH


def _op(before: Any, after: Any) -> str:
    if before is None:
        return "+"
    return "-" if after is None else "~"


def _under(path: Path, watched: Sequence[Path]) -> bool:
    return any(path[: len(one)] == one for one in watched)


def _text(path: Path) -> str:
    text = ""
    for part in path:
        if part.startswith("["):
            text += part
        elif re.fullmatch(r"[\w -]+", part):
            text += f".{part}" if text else part
        else:
            text += f"[{part}]"
    return text
