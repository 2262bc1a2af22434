"""What a look at rollouts found out and decided, written: all of it, or what goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import sqlalchemy as sa
import structlog

from modelfleet.core.database import Database
from modelfleet.core.errors import FleetError
from modelfleet.registry import Version
from modelfleet.rollouts import store
from modelfleet.rollouts.judge import JudgeState, Verdict
from modelfleet.rollouts.moving import Mover
from modelfleet.rollouts.step import Move
from modelfleet.rollouts.store import NewEvidence, Notes, Row

log = structlog.get_logger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Outcome:
    """What is to be written of one rollout."""

    row: Row
    judges: tuple[JudgeState, ...]
    notes: Notes
    applied_at: int | None
    evidence: Sequence[NewEvidence] = ()
    move: Move | None = None
    waits: str = ""
    closed: int | None = None
    """ticks were read up to here"""
    versions: tuple[Version, ...] = ()
    """of the arms"""
    verdicts: Sequence[Verdict | None] = ()

    @property
    def is_empty(self) -> bool:
        row = self.row
        return (
            self.move is None
            and not self.evidence
            and self.judges is row.judges
            and self.notes is row.notes
            and self.applied_at == row.applied_at
            and self.waits == row.waits
        )


class Writer:
    def __init__(self, database: Database, mover: Mover) -> None:
        self._database = database
        self._mover = mover

    def write(self, units: Sequence[Sequence[Outcome]]) -> Sequence[Sequence[Outcome]]:
        """Those that were written. All in one transaction; if that fails, each in its own, so that
        one harms no other."""
        if not units:
            return []
        quiet = [unit[0] for unit in units if len(unit) == 1 and unit[0].move is None]
        others = [unit for unit in units if len(unit) > 1 or unit[0].move is not None]
        try:
            with self._database.begin() as connection:
                store.note_all(connection, [_noted(one) for one in quiet])
                written: list[Sequence[Outcome]] = [[one] for one in quiet]
                written += [unit for unit in others if self._commit(connection, unit)]
            return written
        except store.Stale:
            return self._one_by_one(units)
        except FleetError:
            raise
        except Exception as error:  # noqa: BLE001 - found out one by one whose it is
            log.error("rollouts are written one by one", error=str(error))
            return self._one_by_one(units)

    def _one_by_one(self, units: Sequence[Sequence[Outcome]]) -> list[Sequence[Outcome]]:
        return [unit for unit in units if guarded(unit[0].row, partial(self._alone, unit))]

    def _alone(self, unit: Sequence[Outcome]) -> bool:
        with self._database.begin() as connection:
            return self._commit(connection, unit)

    def _commit(self, connection: sa.Connection, unit: Sequence[Outcome]) -> bool:
        try:
            with connection.begin_nested():
                for one in unit:
                    if not self._one(connection, one):
                        raise store.Stale
        except store.Stale:
            return False
        return True

    def _one(self, connection: sa.Connection, one: Outcome) -> bool:
        row, values = one.row, {}
        if one.judges is not row.judges:
            values["judge"] = store.plain(one.judges)
        if one.notes is not row.notes:
            values["notes"] = store.plain(one.notes)
        if one.applied_at != row.applied_at:
            values["applied_at"] = one.applied_at
        if one.waits != row.waits:
            values["waits"] = one.waits
        if not store.update(connection, row, **values):
            return False
        store.add_evidence(connection, [(row.id, found) for found in one.evidence])
        if one.move is not None:
            after = replace(row, judges=one.judges, notes=one.notes, revision=row.revision + 1)
            self._mover.make(connection, after, one.move, one.versions)
        return True


def guarded(row: Row, part: Callable[[], _T]) -> _T | None:
    """Trouble with one rollout is not the others'."""
    try:
        return part()
    except Exception as error:
        log.exception("rollout", rollout=row.id, endpoint=row.endpoint, error=str(error))
        return None


def _noted(one: Outcome) -> store.Noted:
    return store.Noted(one.row, one.judges, one.notes, one.applied_at, one.waits, one.evidence)
