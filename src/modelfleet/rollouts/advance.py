"""One look of the reconciler at all rollouts that run.

What is true is read once for all; a rollout that has nothing to do writes nothing. Whatever a look
finds out and decides of a rollout (judge state, evidence, new state, new routes, audit event)
commits in one transaction, and only if nobody wrote to the rollout since it was read. A process
that dies before the commit has changed nothing; one that dies after it has nothing left to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import Any, Literal, Protocol

import sqlalchemy as sa

from modelfleet.core.clock import now_us
from modelfleet.core.database import Database
from modelfleet.identity.approvals import Approvals
from modelfleet.registry import RegistryService, Version
from modelfleet.rollouts import freezes, groups, judging, store
from modelfleet.rollouts.freezes import Freeze
from modelfleet.rollouts.judge import Verdict
from modelfleet.rollouts.judging import Judged, TickSource
from modelfleet.rollouts.moving import Mover, approval_of, asked_subject, subject_of
from modelfleet.rollouts.step import (
    AT_A_STEP,
    ENDED,
    Answer,
    Move,
    Observed,
    Standing,
    State,
    decide,
    waits_for,
)
from modelfleet.rollouts.store import Notes, Row
from modelfleet.rollouts.writing import Outcome, Writer, guarded
from modelfleet.serving.endpoints import EndpointService, Place

_SECOND = 1_000_000
WATCHED_SECONDS = 60.0
_GATES_SECONDS = 1.0
"""how often gates are looked at"""


@dataclass(frozen=True)
class Admission:
    """How the gates of a rollout's version stand."""

    state: Literal["waiting", "passed", "failed", "inconclusive"]
    sentence: str = ""
    evidence_digest: str = ""


class Gatekeeper(Protocol):
    def look(self, connection: sa.Connection, rollout: Row) -> Admission:
        """In a writing transaction: gates that were not asked for yet may be."""


@dataclass
class _Seen:
    """What else was read in the same moment."""

    places: Mapping[str, Place]
    freezes: Sequence[Freeze]
    approvals: Mapping[str, Answer] = field(default_factory=dict)
    """by subject"""


class Advancer:
    def __init__(
        self,
        database: Database,
        registry: RegistryService,
        endpoints: EndpointService,
        ticks: TickSource,
        approvals: Approvals,
        gatekeeper: Gatekeeper | None,
    ) -> None:
        self._database = database
        self._registry = registry
        self._endpoints = endpoints
        self._ticks = ticks
        self._approvals = approvals
        self._gatekeeper = gatekeeper
        self._mover = Mover(endpoints, approvals)
        self._writer = Writer(database, self._mover)
        self._known: dict[str, Row] = {}
        self._closed: dict[str, tuple[int, int | None]] = {}
        self._verdicts: dict[str, tuple[int, Sequence[Verdict | None]]] = {}
        self._admissions: dict[str, tuple[float, Answer, str]] = {}
        self._baking: dict[str, tuple[float, int | None]] = {}
        """since when a bake is watched, and up to which tick it must be"""

    def rows(self) -> Sequence[Row]:
        """All that run, oldest first."""
        with self._database.read() as connection:
            self._known = store.refreshed(connection, self._known)
        return list(self._known.values())

    def round(self, load_errors: Mapping[int, str]) -> int:
        """Look at all rollouts that run; how many were written."""
        rows, seen = self._look()
        if not rows:
            return 0
        self._forget(rows)
        versions = self._registry.versions_by_id(
            sorted({one for row in rows.values() for one in row.version_ids})
        )
        closed = self._ticks.closed_tick() if any(map(judging.is_judged, rows.values())) else None
        found: dict[str, Outcome] = {}
        for row in rows.values():
            look = partial(self._consider, row, seen, versions, load_errors, closed)
            one = guarded(row, look)
            if one is not None:
                found[row.id] = one
        written = self._writer.write(self._units(rows, found))
        for outcome in (one for unit in written for one in unit if one.move is None):
            self._remember(outcome)
        return len(written)

    # Looking -------------------------------------------------------------------------------------

    def _look(self) -> tuple[dict[str, Row], _Seen]:
        self._ask_gates()
        with self._database.read() as connection:
            self._known = store.refreshed(connection, self._known)
            if not self._known:
                return {}, _Seen({}, ())
            seen = _Seen(self._endpoints.places(connection), freezes.current(connection))
            seen.approvals = {
                subject: self._standing(connection, row, number, subject)
                for row in self._known.values()
                for number, subject in _subjects(row)
            }
        return dict(self._known), seen

    def _standing(self, connection: sa.Connection, row: Row, number: int, subject: str) -> Answer:
        wanted = approval_of(row, number)
        versions = self._registry.versions_by_id([arm.version_id for arm in row.arms])
        state, sentence = self._approvals.standing(
            connection,
            subject,
            self._mover.digests(row, list(versions.values())),
            wanted.role,
            wanted.quorum,
            self._mover.excluded(row, list(versions.values())),
        )
        standing = {
            "waiting": Standing.WAITING,
            "approved": Standing.PASSED,
            "rejected": Standing.FAILED,
            "expired": Standing.INCONCLUSIVE,
        }
        return Answer(standing[state], sentence)

    def _ask_gates(self) -> None:
        """Gates may have to be asked for: that writes, so it is not done at every look."""
        now = monotonic()
        due = [
            row
            for row in self._known.values()
            if row.state is State.GATING
            and now - self._admissions.get(row.id, (-1e9,))[0] >= _GATES_SECONDS
        ]
        if not due or self._gatekeeper is None:
            return
        for row in due:
            guarded(row, partial(self._ask_gate, row, now))

    def _ask_gate(self, row: Row, now: float) -> None:
        assert self._gatekeeper is not None
        with self._database.begin() as connection:
            found = self._gatekeeper.look(connection, row)
        answer = Answer(Standing(found.state), found.sentence)
        self._admissions[row.id] = (now, answer, found.evidence_digest)

    def _forget(self, rows: Mapping[str, Row]) -> None:
        known: Sequence[dict[str, Any]] = (
            self._closed,
            self._verdicts,
            self._admissions,
            self._baking,
        )
        for one in known:
            for gone in [i for i in one if i not in rows]:
                del one[gone]

    # Deciding ------------------------------------------------------------------------------------

    def _consider(
        self,
        row: Row,
        seen: _Seen,
        versions: Mapping[str, Version],
        load_errors: Mapping[int, str],
        closed: int | None,
    ) -> Outcome:
        place, now = seen.places.get(row.endpoint_id), now_us()
        arms = tuple(versions[arm.version_id] for arm in row.arms)
        if place is None:
            ends = Move(State.ROLLED_BACK, row.step, "The endpoint was deleted.")
            return Outcome(row, row.judges, row.notes, row.applied_at, move=ends, versions=arms)
        applied = place.applied_revision >= row.route_revision
        applied_at = row.applied_at
        if applied and applied_at is None:
            applied_at = max(now, row.step_at)  # the clock may have gone back in between
        stable = versions.get(row.from_version_id or "")
        fresh = replace(row, applied_at=applied_at)
        judged = self._judge(fresh, stable, arms, closed, place.sticky)
        observed = self._observed(
            row, place, stable, versions, load_errors, seen, judged, closed, now
        )
        move = decide(row.spec, observed, row.desired)
        if move is None and judged.stable_breaks and not row.notes.alerted:
            sentence = f"A person should look: the stable version itself. {judged.stable_breaks}"
            move = Move(row.state, row.step, sentence, tells=True)
        return Outcome(
            row,
            judged.states,
            self._notes(row, judged, move),
            applied_at,
            judged.evidence,
            move,
            waits_for(row.spec, observed, row.desired, move),
            closed if judged.read else None,
            arms,
            judged.verdicts,
        )

    def _judge(
        self,
        row: Row,
        stable: Version | None,
        arms: Sequence[Version],
        closed: int | None,
        sticky: bool,
    ) -> Judged:
        """Closed ticks that were not read yet, and what the judge says of each arm."""
        known = self._verdicts.get(row.id)
        verdicts = known[1] if known is not None and known[0] == row.revision else None
        fresh = closed is not None and self._closed.get(row.id) != (closed, row.applied_at)
        if not fresh and verdicts is not None:
            return judging.unchanged(row, verdicts, stable)
        source = self._ticks if fresh else None
        found = judging.take_in(row, stable, arms, source, sticky=sticky)
        if not found.evidence and found.states is row.judges:
            self._verdicts[row.id] = (row.revision, found.verdicts)
            if closed is not None and found.read:
                self._closed[row.id] = (closed, row.applied_at)
        return found

    def _observed(
        self,
        row: Row,
        place: Place,
        stable: Version | None,
        versions: Mapping[str, Version],
        load_errors: Mapping[int, str],
        seen: _Seen,
        judged: Judged,
        closed: int | None,
        now: int,
    ) -> Observed:
        target = versions[row.to_version_id]
        applied = place.applied_revision >= row.route_revision
        since = (now - max(row.applied_at or now, row.step_at)) / _SECOND
        waited = (now - row.step_at) / _SECOND
        at_a_step = row.state in AT_A_STEP
        contest = None
        if row.spec.arms and at_a_step:
            contest = judging.contest(row, judged, versions, load_errors, applied, now)
        bake = judged.baked if row.state is State.BAKING else (0, 0)
        step = row.step
        asked = row.notes.asked == step and at_a_step
        return Observed(
            state=row.state,
            step=step,
            step_seconds=since if applied else 0.0,
            waited_seconds=waited,
            has_stable=stable is not None,
            version_status=_worst([versions[arm.version_id] for arm in row.arms]),
            version_reason=target.reason,
            load_error=load_errors.get(target.index, ""),
            applied=applied,
            verdict=None if contest is not None else judged.verdict,
            bake_requests=bake[0],
            bake_errors=bake[1],
            bake_judged=self._bake_is_closed(row, closed)
            and self._watched(row, applied, closed, now),
            reason=row.sentence,
            blocked=self._blocked(row, seen.freezes, now),
            gates=self._admission(row),
            approval=seen.approvals.get(subject_of(row, step), Answer()),
            asked=seen.approvals.get(asked_subject(row, step)) if asked else None,
            beyond_limit=judged.beyond_limit,
            contest=contest,
            alerted=row.notes.alerted,
            resumed=row.notes.resumed == step,
            promoted=place.stable_version_id == row.to_version_id,
        )

    def _admission(self, row: Row) -> Answer:
        if self._gatekeeper is None:
            return Answer(Standing.PASSED)
        known = self._admissions.get(row.id)
        return known[1] if known else Answer(Standing.WAITING, "The gates are being asked for.")

    def _blocked(self, row: Row, known: Sequence[Freeze], now: int) -> str:
        return freezes.blocked(row.spec, row.notes, known, row.owner_team, row.endpoint, now)

    def _watched(self, row: Row, applied: bool, closed: int | None, now: int) -> bool:
        """Whether this process has watched the bake for its time, or a minute of it, by a clock
        that nobody sets, and has read all that was told meanwhile: wall clocks jump, and ticks are
        numbered by them."""
        if row.state is not State.BAKING or not applied or closed is None:
            self._baking.pop(row.id, None)
            return False
        began, goal = self._baking.get(row.id, (monotonic(), None))
        if goal is None and monotonic() - began >= min(row.spec.bake, WATCHED_SECONDS):
            goal = max(self._ticks.tick_at(now), closed) + 4
        self._baking[row.id] = (began, goal)
        return goal is not None and closed >= goal

    def _bake_is_closed(self, row: Row, closed: int | None) -> bool:
        """A bake that nobody has looked at proves nothing, however long it took."""
        if row.state is not State.BAKING or row.applied_at is None or closed is None:
            return False
        end = row.applied_at + int(row.spec.bake * _SECOND)
        return closed >= self._ticks.tick_at(end) - 1

    def _notes(self, row: Row, judged: Judged, move: Move | None) -> Notes:
        notes = judged.notes
        if row.state is State.GATING and move is not None and row.id in self._admissions:
            notes = replace(notes, evidence=self._admissions[row.id][2])
        return notes

    def _units(
        self,
        rows: Mapping[str, Row],
        found: Mapping[str, Outcome],
    ) -> list[list[Outcome]]:
        """What commits together: one rollout, or all of a group."""
        units = [[one] for one in found.values() if not one.row.group_id]
        for group_id in {row.group_id for row in rows.values() if row.group_id}:
            with self._database.read() as connection:
                members = store.group_of(connection, group_id)
            ours = {one.id: found[one.id] for one in members if one.id in found}
            if any(one.id not in ours and one.state not in ENDED for one in members):
                continue  # one of them can't be judged now: none moves
            moves, waits = groups.together(
                members,
                {i: one.move for i, one in ours.items()},
                {i: one.waits for i, one in ours.items()},
            )
            units.append(
                [
                    replace(one, move=moves.get(i), waits="" if moves.get(i) else waits[i])
                    for i, one in ours.items()
                ]
            )
        full = [[one for one in unit if not one.is_empty] for unit in units]
        return [unit for unit in full if unit]

    def _remember(self, one: Outcome) -> None:
        """What was just written need not be read again."""
        row = one.row
        after = replace(
            row,
            judges=one.judges,
            notes=one.notes,
            applied_at=one.applied_at,
            waits=one.waits,
            revision=row.revision + 1,
        )
        self._known[row.id] = after
        self._verdicts[row.id] = (after.revision, one.verdicts)
        if one.closed is not None:
            self._closed[row.id] = (one.closed, one.applied_at)


def _worst(versions: Sequence[Version]) -> str:
    """failed if one is, ready if all are."""
    statuses = {one.status for one in versions}
    if "failed" in statuses:
        return "failed"
    return "ready" if statuses == {"ready"} else "pending"


def _subjects(row: Row) -> Sequence[tuple[int, str]]:
    """The approvals that it waits for, by the step of the plan (-1: what to do without proof)."""
    found = []
    if row.state in (State.AWAITING_APPROVAL, State.PAUSED) and row.spec.plan[row.step].approve:
        found.append((row.step, subject_of(row, row.step)))
    if row.notes.asked == row.step and row.state in AT_A_STEP:
        found.append((-1, asked_subject(row, row.step)))
    return found
