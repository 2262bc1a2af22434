"""What is wrong with a document: where, what, and what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """Line and column count from 1; 0 is the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True)
class Problem:
    place: Place
    path: str
    """of the value in its document, such as `rollout.steps[1].weight`"""
    message: str
    hint: str = ""

    def __str__(self) -> str:
        path = f"{self.path}: " if self.path else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.place}: {path}{self.message}{hint}"


class Refused(Exception):
    """Documents can't be used; `problems` are all that is wrong with all of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = sorted(problems, key=_order)
        super().__init__("\n".join(str(one) for one in self.problems))


def _order(one: Problem) -> tuple[str, int, int, str]:
    return one.place.file, one.place.line, one.place.column, one.path


def written(path: Path) -> str:
    """`("gates", 0, "quality")` as `gates[0].quality`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z0-9_@/-]+", part):
            text += f".{part}" if text else part
        else:
            text += f"[{part!r}]"
    return text


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint; empty if nothing is near."""
    near = difflib.get_close_matches(name.lower(), list(names), 1, 0.6)
    return f"did you mean {near[0]}?" if near else ""
