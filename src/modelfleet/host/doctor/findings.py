"""What checks look at, and what they say."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

from modelfleet.core.database import Database, place_of
from modelfleet.core.errors import FleetError
from modelfleet.core.layout import Layout
from modelfleet.core.settings import Settings, load_settings
from modelfleet.host.service import HostStatus, status

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    check: str
    status: Status
    says: str
    remedy: str = ""
    """what to do; empty if all is well"""


@dataclass(frozen=True)
class Report:
    home: Path
    version: str
    at: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Nothing fails; there may be warnings."""
        return not any(one.status == "fail" for one in self.findings)

    def count(self, kind: Status) -> int:
        return sum(one.status == kind for one in self.findings)


def ok(says: str) -> Finding:
    return Finding("", "ok", says)


def warn(says: str, remedy: str) -> Finding:
    return Finding("", "warn", says, remedy)


def fail(says: str, remedy: str) -> Finding:
    return Finding("", "fail", says, remedy)


class Examined:
    """One home, seen once. deep: read every byte of what is served. probe: ask the models."""

    def __init__(self, home: Path, *, deep: bool = False, probe: bool = False) -> None:
        self.layout = Layout(home)
        self.deep = deep
        self.probe = probe
        self.complaint = ""
        """why the settings can't be read; defaults stand in for them"""
        try:
            self.settings = load_settings(home)
        except (FleetError, OSError) as error:
            self.complaint = str(error)
            self.settings = Settings(home=home)

    @cached_property
    def status(self) -> HostStatus:
        return status(self.layout)

    @contextmanager
    def database(self, path: Path) -> Iterator[sqlite3.Connection | None]:
        """Open for reading; None if there is none. Raises `sqlite3.Error` if it is none."""
        if not path.exists():
            yield None
            return
        uri = f"{path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, timeout=5, isolation_level=None)
        connection.row_factory = sqlite3.Row
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def fleet(self) -> Iterator[sa.Connection | None]:
        """The fleet's database, wherever it is, for reading; None if there is none yet.

        Raises `FleetError` if it can't be reached, `sa.exc.DBAPIError` if it is none.
        """
        place = place_of(self.settings)
        if isinstance(place, Path) and not place.exists():
            yield None
            return
        database = Database(place, read_only=True)
        try:
            with database.read() as connection:
                yield connection
        finally:
            database.close()

    @property
    def fleet_name(self) -> str:
        return "the database" if self.settings.database.url else "fleet.db"


Check = Callable[[Examined], Iterable[Finding]]
NOTHING_RUNS = "Start it: modelfleet up."


def not_examined(why: str, remedy: str = NOTHING_RUNS) -> Finding:
    """What can't be looked at is no yes."""
    return warn(f"not examined: {why}", remedy)


def megabytes(count: float) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"


def duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"


def some(names: Iterable[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    found = list(names)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more
