"""Making a move: new state, new routes, a question to people; in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
import sqlalchemy as sa

from modelfleet.core import audit
from modelfleet.core.authorization import SYSTEM, Principal, Resource
from modelfleet.core.clock import now_us
from modelfleet.core.ids import digest
from modelfleet.identity.approvals import Approvals
from modelfleet.registry import Version
from modelfleet.registry import store as registry_store
from modelfleet.rollouts import contest, judge, store
from modelfleet.rollouts.judging import pair_share
from modelfleet.rollouts.plan import FULL, Approve
from modelfleet.rollouts.step import AT_A_STEP, ENDED, Desired, Move, State, Traffic
from modelfleet.rollouts.store import Arm, Notes, Row
from modelfleet.serving.endpoints import EndpointService, Route
from modelfleet.serving.traffic import Overlay


def subject_of(row: Row, step: int) -> str:
    """What is approved at an approval step."""
    return f"rollout/{row.id}/step/{step}"


def asked_subject(row: Row, step: int) -> str:
    """What is approved when nothing was proven."""
    return f"rollout/{row.id}/step/{step}/inconclusive"


def approval_of(row: Row, number: int) -> Approve:
    """Who approves that step of the plan; -1: going on without a proof."""
    wanted = row.spec.plan[number].approve if number >= 0 else None
    return wanted or Approve()


class Mover:
    def __init__(self, endpoints: EndpointService, approvals: Approvals) -> None:
        self._endpoints = endpoints
        self._approvals = approvals

    def make(
        self,
        connection: sa.Connection,
        row: Row,
        move: Move,
        versions: Sequence[Version],
        *,
        actor: Principal = SYSTEM,
    ) -> None:
        """Write the move of a row that was just read, or written, in this transaction.

        versions: of the arms, in their order.
        """
        now = now_us()
        arms, notes = _arms(row, move, now)
        target = arms[move.winner].version_id if move.winner is not None else row.to_version_id
        after = replace(row, arms=arms, notes=notes, to_version_id=target)
        values: dict[str, object] = {
            "state": move.state.value,
            "step": move.step,
            "sentence": move.sentence,
            "to_version_id": target,
            "arms": store.plain(arms),
            "notes": store.plain(notes),
            "waits": "",
        }
        if move.state is State.PAUSED and row.desired is Desired.RUN:
            values["desired"] = Desired.PAUSE.value  # the plan asked for it
        if row.desired is Desired.PROMOTE and move.state in (State.BAKING, State.SUCCEEDED):
            values["desired"] = Desired.RUN.value
        if move.resumes:
            values["step_at"] = now  # the pause doesn't count as waiting for a proof
        if move.traffic is not None and self._has_endpoint(connection, row):
            values |= self._route(connection, row, after, move, versions, now)
        if move.state in ENDED:
            values["ended_at"] = now
        if not store.update(connection, row, **values):
            raise store.Stale
        self._ask(connection, after, move, versions)
        if move.state in ENDED:
            self._release(connection, row)
        self.note(connection, row, move.state, move.step, move.sentence, actor)

    def note(
        self,
        connection: sa.Connection,
        row: Row,
        state: State,
        step: int,
        sentence: str,
        actor: Principal,
    ) -> None:
        """The move for the history and for the audit."""
        store.add_move(connection, row.id, state, step, sentence, actor.name)
        details = {"rollout": row.id, "state": state.value, "step": step, "reason": sentence}
        resource = Resource("endpoint", row.endpoint, row.owner_team)
        audit.record(connection, actor, "move-rollout", resource, details)

    def _has_endpoint(self, connection: sa.Connection, row: Row) -> bool:
        return row.endpoint_id in self._endpoints.places(connection, row.endpoint_id)

    def _release(self, connection: sa.Connection, row: Row) -> None:
        for version_id in row.version_ids:
            registry_store.let_go(connection, version_id, f"rollout/{row.id}")
        self._approvals.withdraw(connection, f"rollout/{row.id}/")

    # Routes --------------------------------------------------------------------------------------

    def _route(
        self,
        connection: sa.Connection,
        row: Row,
        after: Row,
        move: Move,
        versions: Sequence[Version],
        now: int,
    ) -> Mapping[str, object]:
        routes, stable_id = routes_of(after, move)
        revision = self._endpoints.set_routes(
            connection,
            row.endpoint_id,
            routes,
            stable_version_id=stable_id,
            overlay=overlay_of(after, move, versions),
        )
        values: dict[str, object] = {}
        if move.out is None and move.shares is None:
            values["step_at"] = now
        if revision == row.route_revision:
            return values  # a step that waits: what was counted goes on counting
        judges = row.judges
        if row.state in AT_A_STEP:
            judges = tuple(judge.next_step(one, pair_share(row, k)) for k, one in enumerate(judges))
        values |= {"route_revision": revision, "applied_at": None, "judge": store.plain(judges)}
        return values

    # People --------------------------------------------------------------------------------------

    def _ask(
        self, connection: sa.Connection, row: Row, move: Move, versions: Sequence[Version]
    ) -> None:
        enters = move.state is State.AWAITING_APPROVAL and move.traffic is not None
        if not enters and not move.asks:
            return
        number = move.step if enters else -1
        wanted = approval_of(row, number)
        names = ", ".join(one.name for one in versions)
        if enters:
            subject = subject_of(row, move.step)
            sentence = f"Go on with the rollout of {names} to {row.endpoint}."
        else:
            subject = asked_subject(row, move.step)
            sentence = f"{move.sentence} Go on with {names} at {row.endpoint} all the same?"
        self._approvals.ask(
            connection,
            SYSTEM,
            subject,
            self.digests(row, versions),
            role=wanted.role,
            quorum=wanted.quorum,
            team=row.owner_team,
            sentence=sentence,
            not_by=self.excluded(row, versions),
            expires_seconds=wanted.expires_seconds,
        )

    def digests(self, row: Row, versions: Sequence[Version]) -> Mapping[str, str]:
        """What is approved: the bundles, the plan, and what the gates found."""
        return {
            **{f"bundle of {one.name}": one.bundle_digest for one in versions},
            "spec": digest(msgspec.json.encode(row.spec, order="sorted")),
            "evidence": row.notes.evidence,
        }

    def excluded(self, row: Row, versions: Sequence[Version]) -> Sequence[str]:
        """Who may not approve: who began the rollout, and the authors."""
        return sorted({row.actor, *(one.created_by for one in versions)} - {SYSTEM.name, ""})


def _arms(row: Row, move: Move, now: int) -> tuple[tuple[Arm, ...], Notes]:
    arms, notes = row.arms, row.notes
    if move.out is not None:
        shares = contest.without([one.share for one in arms], move.out)
        arms = tuple(
            replace(one, share=share, out=move.sentence if k == move.out else one.out)
            for k, (one, share) in enumerate(zip(arms, shares, strict=True))
        )
    if move.shares is not None:
        arms = tuple(
            replace(one, share=share) for one, share in zip(arms, move.shares, strict=True)
        )
        notes = replace(notes, shared_at=now, shares=notes.shares + 1, seen=0)
    if move.asks:
        notes = replace(notes, asked=move.step)
    if move.resumes:
        notes = replace(notes, resumed=move.step)
    if move.tells:
        notes = replace(notes, alerted=True)
    if move.state is State.BAKING and move.traffic is not None:
        # The bake is judged by itself; that the stable version was no better is not forgotten.
        kept = {side: one for side, one in notes.limits.items() if side == "stable"}
        notes = replace(notes, limits=kept)
    return arms, notes


def routes_of(row: Row, move: Move) -> tuple[list[Route], str | None]:
    """The routes that a move asks for, and the version that is then the stable one."""
    stable = row.from_version_id
    if move.traffic is Traffic.PROMOTED:
        return [Route(row.to_version_id, FULL)], row.to_version_id
    if stable is None:
        return [], None
    if move.traffic is Traffic.STABLE:
        return [Route(stable, FULL)], stable
    if row.spec.arms:
        given = [Route(one.version_id, one.share) for one in row.arms if not one.out]
        return [Route(stable, FULL - sum(one.weight for one in given)), *given], stable
    step = row.spec.plan[move.step]
    if not step.is_judged:
        return [Route(stable, FULL)], stable
    return [
        Route(stable, FULL - step.weight),
        Route(row.to_version_id, step.weight, step.shadow),
    ], stable


def overlay_of(row: Row, move: Move, versions: Sequence[Version]) -> Overlay | None:
    """What the step adds to the endpoint's policy."""
    if move.traffic is not Traffic.STEP or row.from_version_id is None:
        return None
    if row.spec.arms:
        wanted = [
            rule.rule(version.version)
            for spec, arm, version in zip(row.spec.arms, row.arms, versions, strict=True)
            if not arm.out
            for rule in spec.rules
        ]
    else:
        preview = row.spec.plan[move.step].preview
        wanted = [preview.rule(versions[0].version)] if preview else []
    if not wanted and row.spec.sticky is None:
        return None
    return Overlay(row.spec.sticky, tuple(wanted))
