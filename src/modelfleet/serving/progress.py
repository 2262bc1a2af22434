"""How far a long preparation has come: for people who wait.

uv tells on its standard error what it does; `Reader` turns that into phases and counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

PHASES = ("resolving", "downloading", "installing", "checking", "compiling")


@dataclass(frozen=True)
class Progress:
    phase: str
    """one of `PHASES`"""
    done: int = 0
    total: int = 0
    """0 where there is nothing to count"""
    what: str = ""
    """the package, if it is one"""


Report = Callable[[Progress], None]


def nobody(_: Progress) -> None:
    """For callers that don't want to hear."""


class Reader:
    """Follows an installation of `total` packages line by line."""

    _DOWNLOADING = re.compile(r"\s*Downloading (\S+)")
    _DOWNLOADED = re.compile(r"\s*Downloaded (\S+)")
    _PREPARED = re.compile(r"\s*Prepared (\d+) package")

    def __init__(self, total: int, report: Report) -> None:
        self._total = total
        self._report = report
        self._wanted: set[str] = set()
        self._here: set[str] = set()

    def line(self, said: str) -> None:
        if found := self._DOWNLOADING.match(said):
            self._wanted.add(found[1])
            self._report(Progress("downloading", len(self._here), len(self._wanted), found[1]))
        elif found := self._DOWNLOADED.match(said):
            self._here.add(found[1])
            self._report(Progress("downloading", len(self._here), len(self._wanted), found[1]))
        elif self._PREPARED.match(said):
            self._report(Progress("installing", 0, self._total))
        elif said.startswith(("Installed ", " + ")):
            self._report(Progress("installing", self._total, self._total))
